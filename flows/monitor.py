"""Flow `monitor`: compare the requests of a server with the data that its model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows.parameters import Data, Journal, Overrides, Recipe, Retrain, Version, resolve_settings
from flows.prefect_support import NOTIFY, RETRY_IO, show_link, show_table
from hire_model.errors import HireError
from hire_model.files import write_text
from hire_model.settings import Settings
from hire_model.settings.fingerprint import hash_json
from hire_model.workflows.monitor import MonitorResult

DRIFT = "Drift"  # the name of the final state: the flow has completed, and found drift
RETRAIN = "hire/retrain"


@flow(name="monitor", log_prints=True)
def monitor(
    journal: Journal = "runs/journal",
    version: Version = "champion",
    recipe: Recipe = "",
    data: Data = "",
    overrides: Overrides = (),
    retrain: Retrain = False,
) -> Any:
    """Compare a server's journal with the data of its version; artifacts: the table, a link to the report.

    Returns the verdict: 'no drift' or 'too few' pairs; on drift the final state is Completed with the name 'Drift'.
    Raises HireError if there is no such journal, version or data set.
    """
    settings = resolve_settings(recipe, data, overrides).settings
    found = compare_journal(Path(journal), settings, version)
    page = write_text(found.page, settings.train.out.parent / "monitored" / "drift.html")
    show_table("drift", found.drift.rows(), found.drift.verdict)
    show_link("drift-report", page, "Report of the monitor")
    print(found.drift.summary())
    if found.drift.verdict != "drift":
        return found.drift.verdict
    message = found.drift.summary()
    if retrain:
        message += f"\nStarted {start_retrain(found, recipe, data, overrides)}."
    return Completed(name=DRIFT, message=message, data=found.drift.verdict)


watch = monitor.with_options(name="hire", **NOTIFY)
"""The same flow under the name `hire`, for the deployment hire/monitor."""


@task(name="compare journal and data", timeout_seconds=3600, **RETRY_IO)
def compare_journal(journal: Path, settings: Settings, version: str) -> MonitorResult:
    """Compare the journal with the data of the model `version` of the registry."""
    from expectations.check import run_suite
    from hire_model.tracking import versions
    from hire_model.workflows.monitor import monitor

    return monitor(journal, versions.find(settings.tracking, version).uri, settings, run_suite)


def start_retrain(found: MonitorResult, recipe: str, data: str, overrides: Overrides) -> str:
    """Start the deployment hire/retrain without waiting for its end; return the run's name.

    It starts once for each model and data: while drift lasts, the same training would give the same model again. Raises
    HireError if there is no such deployment.
    """
    parameters = {"recipe": recipe, "data": data, "overrides": list(overrides)}
    given = {key: value for key, value in parameters.items() if value}
    once = hash_json("retrain", found.weights, found.digest, given)
    try:
        run: Any = run_deployment(RETRAIN, parameters=given, timeout=0, idempotency_key=once, as_subflow=False)
    except ObjectNotFound as error:
        raise HireError(
            f"There is drift, but no deployment {RETRAIN} to start. Deploy it, with server and worker: 'make pipeline'."
        ) from error
    return f"{RETRAIN}, run {run.name}"
