"""Connect to the MLflow store: find its address, limit the time of calls, raise errors as `TrackingError`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from hire_model.errors import HireError
from hire_model.files import is_disk_full
from hire_model.settings import TrackingSettings

DEFAULT_URI = "sqlite:///mlflow.db"
CHECK_SECONDS = 5
ANSWER_SECONDS = 20  # for calls that must succeed: enough for a busy store, short enough for one that is down
UPLOAD_SECONDS = 120  # a store answers an upload only after it has stored the whole file


class TrackingError(HireError):
    """The MLflow store cannot be reached, or a requested run, model or version does not exist."""


def connect(settings: TrackingSettings) -> str:
    """Set MLflow's store and send it one request, so that a wrong address fails before training, not after.

    Return the store's address. Raise TrackingError if the address is invalid or the store does not answer.
    """
    silence_mlflow()
    import mlflow
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    uri = tracking_uri(settings)
    mlflow.set_tracking_uri(uri)
    try:
        with limit_waiting():
            mlflow.MlflowClient().search_experiments(max_results=1)
    except UnsupportedModelRegistryStoreURIException as error:
        valid = ", ".join(sorted(filter(None, error.supported_uri_schemes)))
        raise TrackingError(
            f"The MLflow address {uri} has the unknown scheme '{uri.partition(':')[0]}'. Valid schemes: {valid}. Set "
            "MLFLOW_TRACKING_URI or tracking.uri to an address such as sqlite:///mlflow.db or http://localhost:5000."
        ) from error
    except Exception as error:
        raise TrackingError(
            f"MLflow's store {uri} does not answer: {shorten_error(error)}. Start the server, set another address in "
            "MLFLOW_TRACKING_URI or tracking.uri (sqlite:///mlflow.db needs no server), or run without MLflow: "
            "--set tracking.enabled=false."
        ) from error
    return uri


def tracking_uri(settings: TrackingSettings) -> str:
    """Return the store's address.

    Use the first that is set: MLFLOW_TRACKING_URI inside `mlflow run`, the settings, MLFLOW_TRACKING_URI. The default
    is an SQLite file in the working folder.
    """
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    return (from_environment if inside_mlflow_run() else "") or settings.uri or from_environment or DEFAULT_URI


def inside_mlflow_run() -> bool:
    """Return whether `mlflow run` started this process and opened a run for it."""
    return bool(os.environ.get("MLFLOW_RUN_ID"))


@contextmanager
def translate_errors(action: str, seconds: int = ANSWER_SECONDS) -> Iterator[None]:
    """Limit the time of the MLflow calls in the block and raise their errors as TrackingError.

    action: what the calls do, such as "store the run's tags"; part of the error message.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with limit_waiting(seconds):
            yield
    except (MlflowException, OSError) as error:
        if is_disk_full(error):
            raise TrackingError(
                f"The disk of MLflow's store {mlflow.get_tracking_uri()} is full: it failed to {action}. Free disk "
                "space, then repeat the command."
            ) from error
        raise TrackingError(
            f"MLflow's store {mlflow.get_tracking_uri()} failed to {action}: {shorten_error(error)}. Check that it is "
            "running and has free disk space."
        ) from error


@contextmanager
def limit_waiting(seconds: int = CHECK_SECONDS) -> Iterator[None]:
    """Retry MLflow calls once and wait at most `seconds` for an answer. By default MLflow retries for minutes."""
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
    """Turn off MLflow's usage statistics, its progress bars, and its log lines about creating a store and retrying."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns before each retry; our message comes at the end


def shorten_error(error: BaseException) -> str:
    """Return the first line of an error's message, truncated to 300 characters.

    If a connection failed, return only the reason, such as "Connection refused": libraries wrap it several times.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | socket.gaierror | TimeoutError):
            return cause.strerror or str(cause) or type(cause).__name__
        cause = cause.__cause__ or cause.__context__
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return line if len(line) <= 300 else line[:297] + "..."
