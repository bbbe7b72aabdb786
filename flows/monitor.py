"""Flow `monitor`: compare the requests of a server with the data that its model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows.parameters import Data, Journal, Overrides, Recipe, Retrain, Version, resolve_settings
from flows.prefect_support import NOTIFY, RETRY_IO, name_runs, show_page, show_table
from hire_model.errors import HireError
from hire_model.files import write_text
from hire_model.settings import Settings
from hire_model.settings.fingerprint import hash_json
from hire_model.workflows.monitor import MonitorResult

DRIFT = "Drift"
"""Name of the final state (type Completed) if the flow found drift."""

RETRAIN = "hire/retrain"


@flow(name="monitor", flow_run_name=name_runs("monitor"), log_prints=True)
def monitor(
    journal: Journal = "runs/journal",
    version: Version = "champion",
    recipe: Recipe = "",
    data: Data = "",
    overrides: Overrides = (),
    retrain: Retrain = False,
) -> Any:
    """Compare a server's journal with the training data of its version. Artifacts: the table, a link to the report.

    Returns:
        The verdict: 'no drift', 'too few' (pairs to compare) or 'drift'. On drift the final state is Completed with the
        name 'Drift'.

    Raises:
        HireError: the journal, the version or the data set does not exist.
    """
    settings = resolve_settings(recipe, data, overrides).settings
    result = compare_journal(Path(journal), settings, version)
    page = write_text(result.page, settings.train.out.parent / "monitored" / "drift.html")
    show_table("drift", result.drift.rows(), result.drift.verdict)
    show_page("drift-report", page, "Report of the monitor")
    message = result.summary()
    print(message)
    if result.drift.verdict != "drift":
        return result.drift.verdict
    if retrain:
        message += f"\nStarted {start_retrain(result, recipe, data, overrides)}."
    return Completed(name=DRIFT, message=message, data=result.drift.verdict)


watch = monitor.with_options(name="hire", **NOTIFY)
"""The flow of the deployment hire/monitor: Prefect names a deployment FLOW/DEPLOYMENT."""


@task(name="compare journal and data", timeout_seconds=3600, **RETRY_IO)
def compare_journal(journal: Path, settings: Settings, version: str) -> MonitorResult:
    """Compare the journal with the training data of the registered model `version`."""
    from expectations.check import run_suite
    from hire_model.tracking import versions
    from hire_model.workflows.monitor import monitor

    return monitor(journal, versions.find(settings.tracking, version).uri, settings, run_suite)


def start_retrain(result: MonitorResult, recipe: str, data: str, overrides: Overrides) -> str:
    """Start the deployment hire/retrain without waiting for it; return the name of its run.

    Each combination of model, data and parameters starts it only once. A second run would train the same model again.
    Raises HireError if the deployment does not exist.
    """
    options = {"recipe": recipe, "data": data, "overrides": list(overrides)}
    parameters = {key: value for key, value in options.items() if value}
    key = hash_json("retrain", result.weights, result.digest, parameters)
    try:
        run: Any = run_deployment(RETRAIN, parameters=parameters, timeout=0, idempotency_key=key, as_subflow=False)
    except ObjectNotFound as error:
        raise HireError(
            f"{RETRAIN}: the monitor found drift, but the Prefect server has no such deployment to start. Run "
            "'make pipeline', which deploys it and starts a server and a worker, then run the monitor again."
        ) from error
    return f"{RETRAIN}, run {run.name}"
