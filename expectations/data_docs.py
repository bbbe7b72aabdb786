"""Make Great Expectations data docs safe and usable offline: as written, they load styles and scripts from the web."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

_REMOTE = re.compile(
    r"<link\b[^>]*https?://[^>]*>"
    r"|<script\b[^>]*src=\"https?://[^>]*>\s*</script>"
    r"|<img\b[^>]*https?://[^>]*>"
    r"|url\('https?://[^)]*\)",
    re.IGNORECASE,
)
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">"
)
"""Great Expectations does not escape values in its pages. Without this policy a script in a caption would run."""
_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 1rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
th, td { border: 1px solid #ccc; padding: .3rem .5rem; text-align: left; vertical-align: top }
nav ul, .breadcrumb { list-style: none; padding: 0 } .text-danger { color: #b00020 } .text-success { color: #006d2c }
.modal, .cooltip, footer, .ge-walkthrough-modal, button { display: none }
.fa-check-circle::after { content: "ok" } .fa-times::after { content: "failed" }
</style></head>"""


def site_settings(folder: Path) -> dict[str, Any]:
    """Return Great Expectations' settings for a site of pages in `folder`."""
    return {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.absolute())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def make_local(folder: Path, heading: str) -> None:
    """Remove remote content from all pages below `folder`, forbid scripts, and add a style.

    The index page is replaced, as Great Expectations fills its list with one of the removed scripts.
    """
    for page in folder.rglob("*.html"):
        text = _REMOTE.sub("", page.read_text("utf-8"))
        text = re.sub(r"<head\b[^>]*>", lambda head: head[0] + _POLICY, text, count=1)  # must precede all content
        page.write_text(text.replace("</head>", _STYLE, 1), "utf-8")
    pages = [page for part in ("validations", "expectations") for page in sorted((folder / part).rglob("*.html"))]
    paths = [page.relative_to(folder) for page in pages]
    links = [
        f'<li><a href="{quote(path.as_posix())}">{path.parts[0]}: {html.escape(path.stem)}</a></li>' for path in paths
    ]
    head = f'<!doctype html><html lang="en"><head>{_POLICY}<meta charset="utf-8"><title>Data docs</title>{_STYLE}'
    index = f"{head}<body><h1>{html.escape(heading)}</h1><ul>{''.join(links)}</ul></body></html>"
    (folder / "index.html").write_text(index, "utf-8")
