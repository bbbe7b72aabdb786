"""Flow `validate`: does the data set satisfy the suites in expectations/suites? What fails stops all that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.context import TaskRunContext

from flows import artifacts
from flows.keys import hash_code, read_data_state
from flows.parameters import Data, Overrides, Recipe, resolve_settings
from flows.retries import ON_IO
from hire_model.errors import DataError
from hire_model.settings.fingerprint import hash_json


@flow(name="validate", log_prints=True)
def validate(recipe: Recipe = "", data: Data = "", overrides: Overrides = ()) -> Path:
    """Check a data set; the artifact 'validation' has the table. Returns its folder; DataError where it fails."""
    folder = drawn_or_found(recipe, data, overrides)
    found = checked(folder)
    artifacts.table("validation", found["rows"], f"Data set {folder}, digest {found['digest'][:16]}")
    print(found["summary"])
    if not found["ok"]:
        raise DataError(f"{folder} does not pass validation, nothing was trained:\n{found['summary']}")
    return folder


@task(name="find the data set", timeout_seconds=3600, **ON_IO)
def drawn_or_found(recipe: str, data: str, overrides: Sequence[str]) -> Path:
    """The data set's folder; the relational scenes are drawn here where no data set is named and they are missing."""
    from hire_model.data.chosen import open_dataset

    settings = resolve_settings(recipe, data, overrides).settings.data
    return settings.path or open_dataset(settings).folder


def _key(context: TaskRunContext, parameters: dict[str, Any]) -> str | None:
    folder: Path = parameters["folder"]
    return hash_json("validate", str(folder), read_data_state(folder), hash_code("expectations"))


@task(
    name="check expectations",
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
    timeout_seconds=6 * 3600,
    **ON_IO,
)
def checked(folder: Path) -> dict[str, Any]:
    """What came of the expectations, as JSON: ok, digest, summary, rows. Cached until data, suites or code change."""
    from expectations.check import validate as judge

    found = judge(folder)
    return {"ok": found.ok, "digest": found.digest, "summary": found.summary(), "rows": found.rows()}
