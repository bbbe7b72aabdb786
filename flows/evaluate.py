"""Flow `evaluate`: measure the recall of a registered version and of the champion on the same split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.context import TaskRunContext

from flows.parameters import Data, Overrides, Recipe, Version, resolve_settings
from flows.prefect_support import (
    NOTIFY,
    RETRY_IO,
    hash_code,
    hash_folder,
    name_runs,
    read_data_state,
    show_page,
    show_recall,
)
from hire_model.evaluation.result import Result
from hire_model.settings import Settings
from hire_model.settings.fingerprint import hash_json


@flow(name="evaluate", flow_run_name=name_runs("evaluate"), log_prints=True)
def evaluate(version: Version = "champion", recipe: Recipe = "", data: Data = "", overrides: Overrides = ()) -> Result:
    """Evaluate a version and the champion on the evaluation split. Without `data`, on the training data of the version.

    Artifacts: recall table, recall curve, reports.

    Returns:
        The figures of the version.

    Raises:
        HireError: the version, the split or the data set does not exist.
    """
    settings, models = fetch_models(resolve_settings(recipe, data, overrides).settings, version)
    results = {}
    for name, (uri, folder) in models.items():
        slug = name.replace(" ", "-")
        key = _hash_inputs(folder, settings)[:8]  # one page per model, data and settings
        page = settings.train.out.parent / "evaluated" / f"{slug}-{key}.html"
        figures = evaluate_model.with_options(refresh_cache=not page.is_file())(uri, folder, settings, page)
        results[name] = Result.model_validate(figures)
        show_page(f"report-{slug}", page, f"Report of {name}")
    show_recall(results)
    return next(iter(results.values()))


nightly = evaluate.with_options(name="hire", **NOTIFY)
"""The flow of the deployment hire/evaluate: Prefect names a deployment FLOW/DEPLOYMENT."""


@task(name="fetch models", timeout_seconds=3600, **RETRY_IO)
def fetch_models(settings: Settings, version: str) -> tuple[Settings, dict[str, tuple[str, Path]]]:
    """Return the settings with the data set to use, and name ('version 4') -> (URI, folder) of the models.

    The models are `version`, and the champion if that is another version. The data set is data.path, else the training
    data of `version`.
    """
    from hire_model.data.splits import open_dataset
    from hire_model.tracking import registry, versions
    from hire_model.workflows.evaluation_data import use_training_data

    chosen, champion = versions.find(settings.tracking, version), versions.find_champion(settings.tracking)
    models = {f"version {chosen.number}": chosen}
    if champion is not None and champion.number != chosen.number:
        models[f"champion {champion.number}"] = champion
    data = use_training_data(settings, chosen).data
    settings = settings.model_copy(update={"data": data.model_copy(update={"path": open_dataset(data).folder})})
    return settings, {name: (model.uri, registry.fetch(model.uri, settings.tracking)) for name, model in models.items()}


def _hash_inputs(folder: Path, settings: Settings) -> str:
    """Return a digest of what the figures depend on: the model, the data, the evaluation settings, the code."""
    from hire_model.data.splits import open_dataset

    data = read_data_state(open_dataset(settings.data).folder)
    options = settings.evaluate.model_dump(mode="json"), settings.data.evaluation_split
    return hash_json("evaluate", hash_folder(folder), data, options, hash_code("hire_model"))


def _make_cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return _hash_inputs(parameters["folder"], parameters["settings"])


@task(
    name="evaluate model",
    log_prints=True,
    cache_key_fn=_make_cache_key,
    persist_result=True,
    result_serializer="json",
    timeout_seconds=6 * 3600,
    **RETRY_IO,
)
def evaluate_model(uri: str, folder: Path, settings: Settings, page: Path) -> dict[str, Any]:
    """Return the figures (`Result` as JSON) of the model `uri`, stored in `folder`; write the report to `page`.

    The result is cached until the model, the data, the evaluation settings or the code change.
    """
    from hire_model.workflows import evaluate as workflow

    split, limit = settings.data.evaluation_split
    outcome = workflow.evaluate([uri], settings, split, page=page, limit=limit, announce=print)
    return outcome.result.model_dump(mode="json")
