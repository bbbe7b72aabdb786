"""Hooks of the documentation site (mkdocs.yml): pages from outside docs/, generated tables, and list spacing."""

from __future__ import annotations

import json
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
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_PAGE = re.compile(r"docs/(\w+)\.md")
_REF = re.compile(r"#/components/schemas/(\w+)")
_NAMES = {Path: "folder", str: "text"}
_ITEM = re.compile(r"(?:[-*+]|\d+\.) ")


def on_files(files: Files, config: Any) -> Files:
    """Add the repository's root pages to the site."""
    for source, page in OUTSIDE.items():
        if page not in files.src_uris:
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt a page written for GitHub: fill generated tables, fix links that leave docs/, separate lists."""
    for mark, tables in {"<!-- settings -->": settings_tables, "<!-- contract -->": contract_tables}.items():
        if mark in markdown:
            markdown = markdown.replace(mark, tables())
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


def contract_tables() -> str:
    """Return a Markdown section with a table for each message of serving/openapi.json, requests first."""
    messages = json.loads((ROOT / "serving" / "openapi.json").read_text("utf-8"))["components"]["schemas"]
    requests = [name for name in messages if name.endswith("Request")]
    for name in requests:  # it grows: what a request contains belongs to the requests
        requests += [part for part in _REF.findall(json.dumps(messages[name])) if part not in requests]
    answers = [name for name in messages if name not in requests]
    parts = []
    for title, names in {"Requests": requests, "Answers": answers}.items():
        parts += [f"## {title}", *(_message_table(name, messages[name]) for name in dict.fromkeys(names))]
    return "\n\n".join(parts)


def _message_table(name: str, message: dict[str, Any]) -> str:
    rows = []
    for field, schema in message["properties"].items():
        kind, meaning = _kind(schema), _escaped(schema.get("description", ""))
        if field not in message.get("required", ()):
            meaning = "; ".join(filter(None, [f"optional, default `{json.dumps(schema.get('default'))}`", meaning]))
        rows.append(f"| `{field}` | {kind} | {meaning} |")
    head = ["| Key | Type | Meaning |", "|---|---|---|"]
    return "\n".join([f"### {name}", "", _escaped(message["description"]), "", *head, *rows])


def _kind(schema: dict[str, Any]) -> str:
    """Return a JSON schema as words, such as `list of number ≥ 0`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_kind(choice) for choice in choices)
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "prefixItems" in schema:
        return f"[{', '.join(_kind(item) for item in schema['prefixItems'])}]".replace("[", "\\[", 1)
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    signs = {"minimum": "≥", "maximum": "≤"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return " ".join([schema.get("type", "any"), ", ".join(bounds)]).strip()


def _escaped(text: str) -> str:
    return text.replace("[", "\\[").replace("|", "\\|")
