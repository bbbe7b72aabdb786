"""Hooks of the documentation site (mkdocs.yml): pages from outside docs/, the settings tables, and list spacing."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from hire_model.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files of the repository root, and their pages on the site."""
SETTINGS_MARK = "<!-- settings -->"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_PAGE = re.compile(r"docs/(\w+)\.md")
_NAMES = {Path: "folder", str: "text"}
_ITEM = re.compile(r"(?:[-*+]|\d+\.) ")


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's root pages to the site."""
    for source, page in OUTSIDE.items():
        if page not in files.src_uris:
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt a page written for GitHub: fill the settings tables, fix links that leave docs/, separate lists."""
    if SETTINGS_MARK in markdown:
        markdown = markdown.replace(SETTINGS_MARK, settings_tables())
    outside = page.file.src_uri in OUTSIDE.values() and not (ROOT / "docs" / page.file.src_uri).is_file()
    folder = "" if outside else posixpath.join("docs", posixpath.dirname(page.file.src_uri))
    here = posixpath.dirname(page.file.src_uri)
    lines = _LINK.sub(lambda found: _site_link(found, folder, here), markdown)
    return "\n".join(_spaced(lines.splitlines()))


def _site_link(found: re.Match[str], folder: str, here: str) -> str:
    """Return the link on the site: files outside docs/ become their page, or plain text if they have none."""
    text, target = found.groups()
    if ":" in target or target.startswith("#"):
        return found.group()
    path, mark, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(folder, path))
    if path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif path in OUTSIDE:
        path = OUTSIDE[path]
    else:
        return text
    return f"[{text}]({posixpath.relpath(path, here or '.')}{mark}{anchor})"


def _spaced(lines: list[str]) -> Iterator[str]:
    """Insert the blank line that Python-Markdown requires before a list and GitHub does not."""
    fenced, before = False, ""
    for line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        starts = _ITEM.match(line) and before.strip() and not before.startswith(" ") and not _ITEM.match(before)
        if starts and not fenced:
            yield ""
        yield line
        before = line


def settings_tables() -> str:
    """Return a Markdown section with a table for each group of settings."""
    return "\n\n".join(_group_tables("", Settings))


def _group_tables(prefix: str, group: type[BaseModel]) -> Iterator[str]:
    rows, nested = [], []
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((f"{prefix}{name}.", field.annotation))
            continue
        default = "" if field.default in (None, "") else f"`{_toml(field.default)}`"
        values = _values(field.annotation, field.metadata)
        rows.append(f"| `{prefix}{name}` | {values} | {default} | {field.description or ''} |")
    if rows:
        summary = _PAGE.sub(r"[\1](\1.md)", (group.__doc__ or "").strip().splitlines()[0])
        head = ["| Key | Values | Default | Meaning |", "|---|---|---|---|"]
        yield "\n".join([f"## {prefix.rstrip('.')}", "", summary, "", *head, *rows])
    for inner, kind in nested:
        yield from _group_tables(inner, kind)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(annotation: Any, limits: list[Any]) -> str:
    """Return the accepted values: the choices, or the type with its limits."""
    kinds = list(_leaves(annotation))
    choices = [value for value in kinds if isinstance(value, str)]
    if choices:
        return ", ".join(f"`{value}`" for value in choices)
    names = [_NAMES.get(kind, kind.__name__) for kind in kinds if isinstance(kind, type) and kind is not type(None)]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{sign} {getattr(limit, key)}" for limit in limits for key, sign in signs.items() if hasattr(limit, key)]
    return f"{names[0]} {', '.join(bounds)}".strip()


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types and literal values inside unions, Literal and Annotated."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _leaves(part)
