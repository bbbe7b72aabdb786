"""The connection to MLflow's store: its address, time limits for calls, and errors as `TrackingError`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hire_model.errors import HireError
from hire_model.settings import TrackingSettings

DEFAULT_URI = "sqlite:///mlflow.db"
CHECK_SECONDS = 5
ANSWER_SECONDS = 20  # for calls that must succeed: a loaded store gets time, an absent one does not block for long
UPLOAD_SECONDS = 120  # a store answers an upload only when it has stored all of it


class TrackingError(HireError):
    """MLflow cannot be reached, or does not have what was requested."""


def connect(settings: TrackingSettings) -> str:
    """Point MLflow at its store and send one request, so that a wrong address is found before training, not after.

    Returns the store's address. Raises TrackingError.
    """
    silence_mlflow()
    import mlflow

    uri = tracking_uri(settings)
    mlflow.set_tracking_uri(uri)
    try:
        with limit_waiting():
            mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            f"MLflow's store {uri} does not answer: {first_line(error)}. Start that server, name another in "
            "MLFLOW_TRACKING_URI or tracking.uri (sqlite:///mlflow.db needs no server), or go on without MLflow: "
            "--set tracking.enabled=false."
        ) from error
    return uri


def tracking_uri(settings: TrackingSettings) -> str:
    """Return the store's address.

    The first of: MLFLOW_TRACKING_URI inside `mlflow run`, the settings, MLFLOW_TRACKING_URI, SQLite in this folder.
    """
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    return (from_environment if inside_mlflow_run() else "") or settings.uri or from_environment or DEFAULT_URI


def inside_mlflow_run() -> bool:
    """Return whether `mlflow run` started this process; it has opened a run for it."""
    return bool(os.environ.get("MLFLOW_RUN_ID"))


@contextmanager
def translate_errors(action: str, seconds: int = ANSWER_SECONDS) -> Iterator[None]:
    """Limit the waiting time of MLflow calls and turn their errors into one TrackingError.

    action: ends the sentence "MLflow's store ... did not", such as "take the run's tags".
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with limit_waiting(seconds):
            yield
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow's store {mlflow.get_tracking_uri()} did not {action}: {first_line(error)}. Look whether it is up "
            "and has room."
        ) from error


@contextmanager
def limit_waiting(seconds: int = CHECK_SECONDS) -> Iterator[None]:
    """Retry MLflow calls once and wait at most `seconds` for an answer; MLflow's default is minutes of retries."""
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    before = {key: os.environ.get(key) for key in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def silence_mlflow() -> None:
    """Turn off MLflow's usage statistics, progress bars and the log lines of a store that is being created."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, truncated to 300 characters."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return line if len(line) <= 300 else line[:297] + "..."
