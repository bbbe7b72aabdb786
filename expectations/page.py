"""Render a validation as one HTML page that works offline, and write it. Reasons: docs/adr/008-validation-page.md."""

from __future__ import annotations

from pathlib import Path

from expectations.results import Validation
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.report import render_template
from hire_model.files import write_text


def render(validation: Validation) -> str:
    """Return the page: a table of the suites, then all expectations of each suite with its failures."""
    facts = {
        "data set": validation.name,
        "folder": str(validation.folder),
        "digest": validation.digest,
        **{key: value for key, value in collect_facts().items() if key in ("date", "command", "hire", "machine")},
    }
    return render_template("expectations", "validation.html.j2", validation=validation, facts=facts)


def write(validation: Validation, path: Path) -> Path:
    """Write the page to `path`. Raises HireError if it cannot be written."""
    return write_text(render(validation), path)
