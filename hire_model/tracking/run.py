"""One MLflow run: start or join it, then log a training or an evaluation to it.

When tracking is off, `start_run` gives a `TrackedRun` whose methods do nothing, so callers need no second code path.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from hire_model.errors import RESUME_COMMAND
from hire_model.settings import TrackingSettings
from hire_model.tracking.connection import (
    UPLOAD_SECONDS,
    TrackingError,
    connect,
    first_line,
    inside_mlflow_run,
    limit_waiting,
    translate_errors,
)

log = logging.getLogger(__name__)
_PARAMS_AT_ONCE = 100  # MLflow's limit for a batch
_LONGEST_DIGEST = 36  # MLflow's column; the whole digest is a tag


class TrackedRun:
    """The interface of a run. This base class logs nothing; `MlflowRun` logs to MLflow."""

    run_id = ""
    enabled = False

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log settings by their dotted keys; a key that the run already has keeps its value."""

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log figures, of epoch `step` if given."""

    def flush(self) -> None:
        """Send the metrics that the store did not accept yet. Raises TrackingError if it still does not."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""

    def log_dataset(self, folder: Path, name: str, digest: str, context: str) -> None:
        """Log a data set as an input: its digest is its version, `context` is such as 'training' or 'test'."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file or a whole folder to the run, below `folder`."""


class MlflowRun(TrackedRun):
    """An MLflow run. Metrics that the server refuses are sent again with the next ones."""

    enabled = True

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._unsent: list[tuple[dict[str, float], int | None]] = []

    @override
    def log_params(self, values: Mapping[str, Any]) -> None:
        import mlflow

        with translate_errors("take the run's settings"):
            known = mlflow.MlflowClient().get_run(self.run_id).data.params
            fresh = [(key, value) for key, value in values.items() if key not in known]
            for start in range(0, len(fresh), _PARAMS_AT_ONCE):
                mlflow.log_params(dict(fresh[start : start + _PARAMS_AT_ONCE]))

    @override
    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._unsent.append(({key: float(value) for key, value in values.items()}, step))
        try:
            self._send()
        except Exception as error:  # hours of training must not end because a server restarts
            log.warning("MLflow took no metrics (%s); they are sent again with the next ones.", first_line(error))

    @override
    def flush(self) -> None:
        with translate_errors("take the run's metrics"):
            self._send()

    def _send(self) -> None:
        import mlflow

        with limit_waiting():
            while self._unsent:
                figures, step = self._unsent[0]
                mlflow.log_metrics(figures, step=step)
                self._unsent.pop(0)

    @override
    def set_tags(self, values: Mapping[str, str]) -> None:
        import mlflow

        with translate_errors("take the run's tags"):
            mlflow.set_tags(dict(values))

    @override
    def log_dataset(self, folder: Path, name: str, digest: str, context: str) -> None:
        import mlflow
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]

        source = LocalArtifactDatasetSource(str(folder.resolve()))
        dataset = MetaDataset(source, name=name, digest=digest[:_LONGEST_DIGEST])  # type: ignore[abstract]
        with translate_errors("take the run's data set"):
            mlflow.log_input(dataset, context=context)
            mlflow.set_tag(f"dataset.{context}.digest", digest)

    @override
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        import mlflow

        upload = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
        with translate_errors(f"take {path.name}", UPLOAD_SECONDS):
            upload(str(path), artifact_path=folder)


@contextmanager
def start_run(settings: TrackingSettings, name: str, run_id: str | None = None) -> Iterator[TrackedRun]:
    """Start or join a run that ends with the block: FINISHED, or FAILED if an exception leaves the block.

    Inside `mlflow run`, join the run that MLflow opened; else join `run_id` (a resumed training); else start a new run
    in the experiment of the settings. Raises TrackingError within seconds if no server answers. If the server does not
    answer at the end, an exception of the block is still the one that is raised, and the open run is a warning only.
    """
    if not settings.enabled:
        yield TrackedRun()
        return
    uri = connect(settings)
    import mlflow

    if inside_mlflow_run():
        run_id = None  # mlflow.start_run reads MLFLOW_RUN_ID itself, once
    elif run_id is None or not _is_active(run_id):
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
        _end_run(active.info.run_id, status)


@contextmanager
def explain_failed_upload(out: Path) -> Iterator[None]:
    """Wrap the last uploads of a training: if MLflow does not take them, say that nothing is lost and how to resume."""
    from mlflow.exceptions import MlflowException

    try:
        with limit_waiting(UPLOAD_SECONDS):
            yield
    except (MlflowException, OSError, TrackingError) as error:
        raise TrackingError(
            f"The training is complete and lies in {out}, but MLflow did not take all of it: {first_line(error)}. Run "
            f"{RESUME_COMMAND}: it goes straight to the evaluation and hands everything over again."
        ) from error


def _end_run(run_id: str, status: str) -> None:
    """End the active run. Never raises, because that would hide the exception that is being handled."""
    import mlflow

    try:
        with limit_waiting():
            mlflow.end_run(status)
    except Exception as error:
        log.warning("MLflow did not take the end of run %s (%s); it shows it as running.", run_id, first_line(error))


def _is_active(run_id: str) -> bool:
    import mlflow

    try:
        return mlflow.get_run(run_id).info.lifecycle_stage == "active"
    except mlflow.MlflowException:
        return False
