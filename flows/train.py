"""Flow `train`: train a model, resuming after an interruption, and register it as the challenger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import flow, task

from flows.folder import STATE, TrainingFolder
from flows.parameters import Data, Fresh, Hours, Overrides, Recipe, resolve_settings
from flows.prefect_support import RETRY_IO, show_link, show_progress
from hire_model.errors import HireError, TrainingStopped
from hire_model.settings import ResolvedSettings, Settings

LOCK = "retrain.lock"


@flow(name="train", log_prints=True)
def train(
    recipe: Recipe = "synthetic",
    data: Data = "",
    overrides: Overrides = (),
    fresh: Fresh = False,
    hours: Hours = 24.0,
) -> str:
    """Train and register a model. Return the number of its version.

    An interrupted training with the same data, settings and code resumes from its checkpoint, and a finished one is not
    repeated; `fresh` trains from the beginning in either case. Raises HireError if settings, data or MLflow are not in
    order, or another retrain is running.
    """
    resolved = resolve_settings(recipe, data, overrides)
    with hold_lock(resolved.settings):
        folder = TrainingFolder.from_settings(resolved.settings)
        if fresh:
            folder.forget()
        version = train_model.with_options(timeout_seconds=hours * 3600)(resolved, Path(recipe).stem, folder)
    show_link("training-report", folder.out / "report.html", f"Training and figures of version {version}")
    return version


@contextmanager
def hold_lock(settings: Settings) -> Iterator[None]:
    """Hold the lock beside train.out, so that one retrain runs at a time, with or without a Prefect server.

    One process may take it more than once; a process that dies releases it. Raises HireError if another process holds
    it. The runs of a deployment queue before they get here (prefect.yaml).
    """
    folder = settings.train.out.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise HireError(
            f"{folder / LOCK}: another retrain is at work in {folder}. Wait until it has ended, or name another "
            "folder: train.out=runs2/latest."
        ) from error
    try:
        yield
    finally:
        lock.release()


@task(name="fit", log_prints=True, **RETRY_IO)
def train_model(resolved: ResolvedSettings, name: str, folder: TrainingFolder) -> str:
    """Train, or resume the training in `folder`, also on a retry. Return the version's number."""
    from hire_model.tracking import versions
    from hire_model.training.record import EpochRecord
    from hire_model.workflows import train as workflow

    settings = resolved.settings
    if not (settings.tracking.enabled and settings.tracking.register_model):
        raise HireError(
            "The flow works on registered models: leave tracking.enabled and tracking.register_model as they are, or "
            "train without the flow ('hire train')."
        )
    if _is_registered(folder, settings):
        print(f"Version {folder.version} came of the same data, settings and code; nothing to train.")
        return folder.version
    resume = folder.resumable
    print(f"{'Going on from the checkpoint' if resume else 'Training from the beginning'} in {folder.out}")
    if not resume:
        folder.begin()
    show = show_progress("training", f"{settings.train.epochs} epochs")

    def on_epoch(record: EpochRecord) -> None:
        show((record.epoch + 1) / settings.train.epochs)

    try:
        trained = workflow.train(resolved, name, resume, on_epoch)
    except TrainingStopped as error:
        raise TrainingStopped(f"{error} A flow has no --resume: the same run, started again, goes on.") from error
    if trained is None:
        raise HireError("The flow trains in one process: start it without torchrun.")
    folder.end(trained.version, versions.find(settings.tracking, trained.version).run_id)
    return trained.version


def _is_registered(folder: TrainingFolder, settings: Settings) -> bool:
    """Return whether this training has finished and its version is in the store."""
    from hire_model.tracking import versions
    from hire_model.tracking.connection import tracking_uri

    if not folder.version:
        return False
    if any(folder.holds(version) for version in versions.list_versions(settings.tracking)):
        return True
    print(
        f"{folder.out / STATE} tells of version {folder.version}, but the version of that number in "
        f"{tracking_uri(settings.tracking)} is not there or came of another run: it is trained and registered anew."
    )
    return False
