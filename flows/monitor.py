"""Flow `monitor`: does what the server is asked still look like what its model has learned?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from expectations.monitor import Monitored
from flows import artifacts
from flows.notify import HOOKS
from flows.parameters import Data, Journal, Overrides, Recipe, Retrain, Version, resolve_settings
from flows.retries import ON_IO
from hire_model.errors import HireError
from hire_model.files import write_text
from hire_model.settings import Settings
from hire_model.settings.fingerprint import hash_json

DRIFT = "Drift"  # the name of the state: the flow has done its work, and found some
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

    Returns the verdict: 'no drift' or 'too few' pairs; on drift the run is Completed by the name 'Drift'. Raises
    HireError where there is no such journal, version or data set.
    """
    settings = resolve_settings(recipe, data, overrides).settings
    found = compared(Path(journal), settings, version)
    page = write_text(found.page, settings.train.out.parent / "monitored" / "drift.html")
    artifacts.table("drift", found.drift.rows(), found.drift.verdict)
    artifacts.link("drift-report", page, "Report of the monitor")
    print(found.drift.summary())
    if found.drift.verdict != "drift":
        return found.drift.verdict
    message = found.drift.summary()
    if retrain:
        message += f"\nStarted {start_retrain(found, recipe, data, overrides)}."
    return Completed(name=DRIFT, message=message, data=found.drift.verdict)


watch = monitor.with_options(name="hire", **HOOKS)
"""The same flow in the pipeline's name, for the deployment hire/monitor."""


@task(name="compare journal and data", timeout_seconds=3600, **ON_IO)
def compared(journal: Path, settings: Settings, version: str) -> Monitored:
    """What the monitor finds for the model `version` of the registry."""
    from expectations.monitor import monitor
    from hire_model.tracking import versions

    return monitor(journal, versions.find(settings.tracking, version).uri, settings)


def start_retrain(found: Monitored, recipe: str, data: str, overrides: Overrides) -> str:
    """Start the deployment hire/retrain, without waiting for its end; returns the run's name.

    Once for each model and data: while drift lasts, the same training would give the same model again. Raises HireError
    where there is no such deployment.
    """
    asked = {"recipe": recipe, "data": data, "overrides": list(overrides)}
    given = {key: value for key, value in asked.items() if value}
    once = hash_json("retrain", found.weights, found.digest, given)
    try:
        run: Any = run_deployment(RETRAIN, parameters=given, timeout=0, idempotency_key=once, as_subflow=False)
    except ObjectNotFound as error:
        raise HireError(
            f"There is drift, but no deployment {RETRAIN} to start. Deploy it, with server and worker: 'make pipeline'."
        ) from error
    return f"{RETRAIN}, run {run.name}"
