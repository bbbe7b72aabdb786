"""Flow `validate`: check a data set against the suites in expectations/suites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.context import TaskRunContext

from flows.parameters import Data, Overrides, Recipe, resolve_settings
from flows.prefect_support import RETRY_IO, hash_code, name_runs, read_data_state, show_page, show_table
from hire_model.errors import DataError
from hire_model.files import write_text
from hire_model.settings.fingerprint import hash_json


@flow(name="validate", flow_run_name=name_runs("validate"), log_prints=True)
def validate(recipe: Recipe = "", data: Data = "", overrides: Overrides = ()) -> Path:
    """Check a data set. Artifacts: the table of expectations, a link to the report.

    Returns:
        The folder of the data set.

    Raises:
        DataError: an expectation with severity 'error' fails.
    """
    folder = find_dataset(recipe, data, overrides)
    settings = resolve_settings(recipe, data, overrides).settings
    result = check_dataset(folder)
    page = write_text(result["page"], settings.train.out.parent / "validated" / f"{result['digest'][:16]}.html")
    show_page("validation-report", page, f"Validation of {folder}")
    show_table("validation", result["rows"], f"Data set {folder}, digest {result['digest'][:16]}")
    print(result["summary"])
    if not result["ok"]:
        raise DataError(
            f"{folder} does not pass validation, nothing was trained. Correct these errors and start again:\n"
            f"{result['summary']}"
        )
    return folder


@task(name="find the data set", timeout_seconds=3600, **RETRY_IO)
def find_dataset(recipe: str, data: str, overrides: Sequence[str]) -> Path:
    """Return the folder of the data set. If none is set, generate relational scenes unless they exist."""
    from hire_model.data.splits import open_dataset
    from hire_model.storage import localize

    settings = resolve_settings(recipe, data, overrides).settings.data
    return Path(localize(settings.path)) if settings.path else open_dataset(settings).folder


def _make_cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    folder: Path = parameters["folder"]
    return hash_json("validate", str(folder), read_data_state(folder), hash_code("expectations"))


@task(
    name="check expectations",
    cache_key_fn=_make_cache_key,
    persist_result=True,
    result_serializer="json",
    timeout_seconds=6 * 3600,
    **RETRY_IO,
)
def check_dataset(folder: Path) -> dict[str, Any]:
    """Return the validation: ok, digest, summary, rows, page (HTML). It is cached until data, suites or code change."""
    from expectations import check, page

    result = check.validate(folder)
    return {
        "ok": result.ok,
        "digest": result.digest,
        "summary": result.summary(),
        "rows": result.rows(),
        "page": page.render(result),
    }
