"""One MLflow run: opened or joined, then told everything about a training or an evaluation.

Where tracking is off, `track` gives a `Run` whose methods do nothing, so that callers need no second path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from hire_model.errors import GO_ON, HireError
from hire_model.settings import TrackingSettings

log = logging.getLogger(__name__)
DEFAULT_URI = "sqlite:///mlflow.db"
_CHECK_SECONDS = 5
ANSWER_SECONDS = 20  # for what must arrive: a store under load may take its time, a store that is away may not
UPLOAD_SECONDS = 120  # a store answers an upload only when it has kept all of it
_PARAMS_AT_ONCE = 100  # MLflow's own limit for a batch
_LONGEST_DIGEST = 36  # MLflow's column; the whole digest is a tag


class TrackingError(HireError):
    """MLflow cannot be reached, or does not have what was asked of it."""


class Run:
    """A run that keeps nothing. `MlflowRun` has the same methods and keeps all of it."""

    run_id = ""
    tracked = False

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings by their dotted keys; a key that the run has already keeps its value."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record figures, of epoch `step` if given."""

    def flush(self) -> None:
        """Send what the store did not take yet. Raises TrackingError where it still does not."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record facts in words."""

    def dataset(self, folder: Path, name: str, digest: str, context: str) -> None:
        """Record a data set as an input: its digest is its version, `context` is such as 'training' or 'test'."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file or a whole folder with the run, below `folder`."""


class MlflowRun(Run):
    """The methods of `Run` against an MLflow run. Metrics that the server refuses are sent again with the next ones."""

    tracked = True

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._waiting: list[tuple[dict[str, float], int | None]] = []

    @override
    def params(self, values: Mapping[str, Any]) -> None:
        import mlflow

        with telling("take the run's settings"):
            known = mlflow.MlflowClient().get_run(self.run_id).data.params
            fresh = [(key, value) for key, value in values.items() if key not in known]
            for start in range(0, len(fresh), _PARAMS_AT_ONCE):
                mlflow.log_params(dict(fresh[start : start + _PARAMS_AT_ONCE]))

    @override
    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._waiting.append(({key: float(value) for key, value in values.items()}, step))
        try:
            self._send()
        except Exception as error:  # hours of training must not end because a server restarts
            log.warning("MLflow took no metrics (%s); they are sent again with the next ones.", first_line(error))

    @override
    def flush(self) -> None:
        with telling("take the run's metrics"):
            self._send()

    def _send(self) -> None:
        import mlflow

        with impatient():
            while self._waiting:
                figures, at = self._waiting[0]
                mlflow.log_metrics(figures, step=at)
                self._waiting.pop(0)

    @override
    def tags(self, values: Mapping[str, str]) -> None:
        import mlflow

        with telling("take the run's tags"):
            mlflow.set_tags(dict(values))

    @override
    def dataset(self, folder: Path, name: str, digest: str, context: str) -> None:
        import mlflow
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]

        source = LocalArtifactDatasetSource(str(folder.resolve()))
        kept = MetaDataset(source, name=name, digest=digest[:_LONGEST_DIGEST])  # type: ignore[abstract]
        with telling("take the run's data set"):
            mlflow.log_input(kept, context=context)
            mlflow.set_tag(f"dataset.{context}.digest", digest)

    @override
    def artifact(self, path: Path, folder: str | None = None) -> None:
        import mlflow

        keep = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
        with telling(f"take {path.name}", UPLOAD_SECONDS):
            keep(str(path), artifact_path=folder)


@contextmanager
def track(settings: TrackingSettings, name: str, run_id: str | None = None) -> Iterator[Run]:
    """A run that ends with the block: finished, or failed where an exception leaves it.

    Inside `mlflow run` it is the run that MLflow opened, otherwise `run_id` (a training that goes on), otherwise a new
    one in the experiment of the settings. Raises TrackingError within seconds where no server answers. A server that is
    away in the end hides nothing: what the block raised is raised, and the open run is only warned of.
    """
    if not settings.enabled:
        yield Run()
        return
    uri = connect(settings)
    import mlflow

    if inside_mlflow_run():
        run_id = None  # start_run reads MLFLOW_RUN_ID itself, once
    elif run_id is None or not _known(run_id):
        run_id = None
        mlflow.set_experiment(settings.experiment)
    log.info("Tracking in %s", uri)
    joined = run_id is not None or inside_mlflow_run()
    active = mlflow.start_run(run_id, run_name=None if joined else name, log_system_metrics=True)
    status = "FAILED"
    try:
        yield MlflowRun(active.info.run_id)
        status = "FINISHED"
    finally:
        _close(active.info.run_id, status)


@contextmanager
def handing_over(out: Path) -> Iterator[None]:
    """For the last steps of a training: if MLflow does not take them, say that nothing is lost and how to go on."""
    from mlflow.exceptions import MlflowException

    try:
        with impatient(UPLOAD_SECONDS):
            yield
    except (MlflowException, OSError, TrackingError) as error:
        raise TrackingError(
            f"The training is complete and lies in {out}, but MLflow did not take all of it: {first_line(error)}. Run "
            f"{GO_ON}: it goes straight to the evaluation and hands everything over again."
        ) from error


@contextmanager
def impatient(seconds: int = _CHECK_SECONDS) -> Iterator[None]:
    """MLflow retries for minutes by default. Inside, it retries once and waits for an answer for `seconds` at most."""
    bounds = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    before = {key: os.environ.get(key) for key in bounds}
    os.environ.update(bounds)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def telling(what: str, seconds: int = ANSWER_SECONDS) -> Iterator[None]:
    """Around a question or an order to MLflow: no long retries, and its errors are one TrackingError.

    what: ends the sentence "MLflow's store ... did not", such as "take the run's tags".
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with impatient(seconds):
            yield
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow's store {mlflow.get_tracking_uri()} did not {what}: {first_line(error)}. Look whether it is up "
            "and has room."
        ) from error


def inside_mlflow_run() -> bool:
    """Whether this process was started by `mlflow run`, which has opened a run for it."""
    return bool(os.environ.get("MLFLOW_RUN_ID"))


def tracking_uri(settings: TrackingSettings) -> str:
    """Where runs are kept: what `mlflow run` hands over, else the settings, else the environment, else SQLite here."""
    handed = os.environ.get("MLFLOW_TRACKING_URI", "")
    return (handed if inside_mlflow_run() else "") or settings.uri or handed or DEFAULT_URI


def connect(settings: TrackingSettings) -> str:
    """Point MLflow at its store and ask it one thing, so that a wrong address shows before training, not after.

    Returns the store's address. Raises TrackingError.
    """
    quiet()
    import mlflow

    uri = tracking_uri(settings)
    mlflow.set_tracking_uri(uri)
    try:
        with impatient():
            mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            f"MLflow's store {uri} does not answer: {first_line(error)}. Start that server, name another in "
            "MLFLOW_TRACKING_URI or tracking.uri (sqlite:///mlflow.db needs no server), or go on without MLflow: "
            "--set tracking.enabled=false."
        ) from error
    return uri


def quiet() -> None:
    """No usage statistics are sent, and MLflow's own stores make no noise while they are set up."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to what fits a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return line if len(line) <= 300 else line[:297] + "..."


def _close(run_id: str, status: str) -> None:
    """End the active run. Never raises: an error here would take the place of the one that is under way."""
    import mlflow

    try:
        with impatient():
            mlflow.end_run(status)
    except Exception as error:
        log.warning("MLflow did not take the end of run %s (%s); it shows it as running.", run_id, first_line(error))


def _known(run_id: str) -> bool:
    import mlflow

    try:
        return mlflow.get_run(run_id).info.lifecycle_stage == "active"
    except mlflow.MlflowException:
        return False
