"""Start or join an MLflow run, and log a training or an evaluation to it.

If tracking is off, `start_run` yields a `TrackedRun` whose methods do nothing, so callers need no second code path.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from hire_model.errors import RESUME_COMMAND
from hire_model.settings import TrackingSettings
from hire_model.tracking.connection import (
    UPLOAD_SECONDS,
    TrackingError,
    connect,
    inside_mlflow_run,
    limit_waiting,
    shorten_error,
    translate_errors,
)

if TYPE_CHECKING:
    from mlflow.data.dataset import Dataset

log = logging.getLogger(__name__)
_PARAMS_PER_CALL = 100  # MLflow's limit
_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")  # of a run without a name, such as awesome-bat-831
_MAX_DIGEST = 36  # characters, MLflow's limit; the full digest is stored as a tag


class TrackedRun:
    """The interface of a run. This base class logs nothing; `MlflowRun` logs to MLflow."""

    run_id = ""
    experiment_id = ""
    enabled = False

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log settings by their dotted keys. A key that the run already has keeps its old value."""

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics; `step` is the epoch, if they belong to one."""

    def log_model_metrics(
        self, values: Mapping[str, float], model_id: str, folder: Path, name: str, digest: str
    ) -> None:
        """Log metrics that were measured on the data set in `folder`, for the run and for the logged model `model_id`.

        model_id: "" for a model that is not in MLflow.
        """

    def flush(self) -> None:
        """Send the metrics that could not be sent before. Raise TrackingError if the store still fails."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def log_dataset(self, folder: Path, name: str, digest: str, context: str) -> None:
        """Log a data set as an input of the run. context: its use, such as 'training' or 'test'."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or a folder with its content, to the artifact folder `folder`."""


class MlflowRun(TrackedRun):
    """An MLflow run. Metrics that cannot be sent are kept and sent with the next ones."""

    enabled = True

    def __init__(self, run_id: str, experiment_id: str) -> None:
        self.run_id, self.experiment_id = run_id, experiment_id
        self._unsent: list[tuple[dict[str, float], int | None]] = []

    @override
    def log_params(self, values: Mapping[str, Any]) -> None:
        import mlflow

        with translate_errors("store the run's settings"):
            logged = mlflow.MlflowClient().get_run(self.run_id).data.params
            new = [(key, value) for key, value in values.items() if key not in logged]
            for start in range(0, len(new), _PARAMS_PER_CALL):
                mlflow.log_params(dict(new[start : start + _PARAMS_PER_CALL]))

    @override
    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._unsent.append(({key: float(value) for key, value in values.items()}, step))
        try:
            self._send()
        except Exception as error:  # a server that restarts must not end hours of training
            log.warning(
                "Metrics could not be sent to MLflow (%s). Sending again with the next ones.", shorten_error(error)
            )

    @override
    def log_model_metrics(
        self, values: Mapping[str, float], model_id: str, folder: Path, name: str, digest: str
    ) -> None:
        import mlflow

        metrics = {key: float(value) for key, value in values.items()}
        with translate_errors("store the model's metrics"):
            mlflow.log_metrics(metrics, model_id=model_id or None, dataset=_make_dataset(folder, name, digest))

    @override
    def flush(self) -> None:
        with translate_errors("store the run's metrics"):
            self._send()

    def _send(self) -> None:
        import mlflow

        with limit_waiting():
            while self._unsent:
                metrics, step = self._unsent[0]
                mlflow.log_metrics(metrics, step=step)
                self._unsent.pop(0)

    @override
    def set_tags(self, values: Mapping[str, str]) -> None:
        import mlflow

        with translate_errors("store the run's tags"):
            mlflow.set_tags(dict(values))

    @override
    def log_dataset(self, folder: Path, name: str, digest: str, context: str) -> None:
        import mlflow

        dataset = _make_dataset(folder, name, digest)
        with translate_errors("store the run's data set"):
            mlflow.log_input(dataset, context=context)
            mlflow.set_tag(f"dataset.{context}.digest", digest)

    @override
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        import mlflow

        upload = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
        with translate_errors(f"store {path.name}", UPLOAD_SECONDS):
            upload(str(path), artifact_path=folder)


def _make_dataset(folder: Path, name: str, digest: str) -> Dataset:
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]

    source = LocalArtifactDatasetSource(str(folder.resolve()))
    return MetaDataset(source, name=name, digest=digest[:_MAX_DIGEST])  # type: ignore[abstract]


@contextmanager
def start_run(settings: TrackingSettings, name: str, run_id: str | None = None) -> Iterator[TrackedRun]:
    """Start or join a run. At the end of the block its status is FINISHED, or FAILED after an exception.

    Inside `mlflow run`, join the run that MLflow opened; else join `run_id` (a resumed training); else start a new run
    in the experiment of the settings. If the store does not answer at the start, raise TrackingError within seconds. If
    it does not answer at the end, only log a warning, so that an exception of the block is not replaced.
    """
    if not settings.enabled:
        yield TrackedRun()
        return
    uri = connect(settings)
    import mlflow

    from hire_model.tracking.experiment import open_experiment

    if inside_mlflow_run():
        run_id = None  # mlflow.start_run reads MLFLOW_RUN_ID itself
    elif run_id is None or not _is_active(run_id):
        run_id = None
        with translate_errors(f"open the experiment '{settings.experiment}'"):
            mlflow.set_experiment(experiment_id=open_experiment(settings))
    log.info("Tracking in %s", uri)
    inside = inside_mlflow_run()  # mlflow.start_run deletes MLFLOW_RUN_ID
    joined = run_id is not None or inside
    active = mlflow.start_run(run_id, run_name=None if joined else name, log_system_metrics=True)
    status = "FAILED"
    try:
        if inside and _GENERATED_NAME.fullmatch(active.info.run_name or ""):  # the user named none
            with translate_errors("name the run"):
                mlflow.set_tag("mlflow.runName", name)
        yield MlflowRun(active.info.run_id, active.info.experiment_id)
        status = "FINISHED"
    finally:
        _end_run(active.info.run_id, status)


@contextmanager
def explain_failed_upload(out: Path) -> Iterator[None]:
    """Raise an error in the uploads at the end of a training as TrackingError that says how to repeat them."""
    from mlflow.exceptions import MlflowException

    try:
        with limit_waiting(UPLOAD_SECONDS):
            yield
    except (MlflowException, OSError, TrackingError) as error:
        raise TrackingError(
            f"The training is complete and stored in {out}, but the upload to MLflow failed: {shorten_error(error)}. "
            f"Run {RESUME_COMMAND}: it repeats only the evaluation and the upload."
        ) from error


def _end_run(run_id: str, status: str) -> None:
    """End the active run. Never raise: that would hide the exception that is being handled."""
    import mlflow

    try:
        with limit_waiting():
            mlflow.end_run(status)
    except Exception as error:
        log.warning("MLflow run %s could not be ended (%s); MLflow shows it as running.", run_id, shorten_error(error))


def _is_active(run_id: str) -> bool:
    import mlflow

    try:
        return mlflow.get_run(run_id).info.lifecycle_stage == "active"
    except mlflow.MlflowException:
        return False
