"""Flow `evaluate`: recall of a registered version, beside the champion's on the same split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.context import TaskRunContext

from flows import artifacts
from flows.keys import hash_code, hash_folder, read_data_state
from flows.notify import HOOKS
from flows.parameters import Data, Overrides, Recipe, Version, resolve_settings
from flows.retries import ON_IO
from hire_model.evaluation.result import Result
from hire_model.settings import Settings
from hire_model.settings.fingerprint import hash_json


@flow(name="evaluate", log_prints=True)
def evaluate(version: Version = "champion", recipe: Recipe = "", data: Data = "", overrides: Overrides = ()) -> Result:
    """Judge a version and the champion on the split that the recipe tests on; artifacts: table, curve, reports.

    Returns the version's figures. Raises HireError where there is no such version, split or data set.
    """
    settings = resolve_settings(recipe, data, overrides).settings
    models = fetched(settings, version)
    results = {}
    for name, (uri, folder) in models.items():
        slug = name.replace(" ", "-")
        about = figures_key(folder, settings)[:8]  # of other data or settings there is another page
        page = settings.train.out.parent / "evaluated" / f"{slug}-{about}.html"
        figures = judged.with_options(refresh_cache=not page.is_file())(uri, folder, settings, page)
        results[name] = Result.model_validate(figures)
        artifacts.link(f"report-{slug}", page, f"Report of {name}")
    artifacts.recall(results)
    return next(iter(results.values()))


nightly = evaluate.with_options(name="hire", **HOOKS)
"""The same flow in the pipeline's name, for the deployment hire/evaluate."""


@task(name="fetch models", timeout_seconds=3600, **ON_IO)
def fetched(settings: Settings, version: str) -> dict[str, tuple[str, Path]]:
    """'version 4' -> address and folder, of `version` and, where there is another one, of the champion."""
    from hire_model.tracking import registry, versions

    asked, champion = versions.find(settings.tracking, version), versions.find_champion(settings.tracking)
    chosen = {f"version {asked.number}": asked}
    if champion is not None and champion.number != asked.number:
        chosen[f"champion {champion.number}"] = champion
    return {name: (found.uri, registry.fetch(found.uri, settings.tracking)) for name, found in chosen.items()}


def figures_key(folder: Path, settings: Settings) -> str:
    """What the figures of the model in `folder` depend on: it, the data, the settings of evaluation, the code."""
    from hire_model.data.chosen import open_dataset

    data = read_data_state(open_dataset(settings.data).folder)
    how = settings.evaluate.model_dump(mode="json"), settings.data.evaluation_split
    return hash_json("evaluate", hash_folder(folder), data, how, hash_code("hire_model"))


def _key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return figures_key(parameters["folder"], parameters["settings"])


@task(
    name="judge",
    log_prints=True,
    cache_key_fn=_key,
    persist_result=True,
    result_serializer="json",
    timeout_seconds=6 * 3600,
    **ON_IO,
)
def judged(uri: str, folder: Path, settings: Settings, page: Path) -> dict[str, Any]:
    """The figures (`Result` as JSON) of the model at `uri`, whose files lie in `folder`; writes the report `page`.

    Cached until model, data, the settings of evaluation or the code change.
    """
    from hire_model.workflows import evaluate as workflow

    split, limit = settings.data.evaluation_split
    return workflow.evaluate([uri], settings, split, page=page, limit=limit).result.model_dump(mode="json")
