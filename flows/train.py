"""Flow `train`: a training that an interruption does not lose, registered as the challenger."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from flows import artifacts
from flows.alone import alone
from flows.folder import STATE, TrainingFolder
from flows.parameters import Data, Fresh, Hours, Overrides, Recipe, resolve_settings
from flows.retries import ON_IO
from hire_model.errors import HireError, TrainingStopped
from hire_model.settings import ResolvedSettings


@flow(name="train", log_prints=True)
def train(
    recipe: Recipe = "synthetic",
    data: Data = "",
    overrides: Overrides = (),
    fresh: Fresh = False,
    hours: Hours = 24.0,
) -> str:
    """Train and register a model; returns the number of its version.

    An interrupted training with the same data, settings and code goes on from its checkpoint, and a finished one is not
    repeated; with `fresh` it begins anew in either case. Raises HireError where settings, data or MLflow are not in
    order, or another retrain is at work.
    """
    resolved = resolve_settings(recipe, data, overrides)
    with alone(resolved.settings):
        folder = TrainingFolder.from_settings(resolved.settings)
        if fresh:
            folder.forget()
        version = fit.with_options(timeout_seconds=hours * 3600)(resolved, Path(recipe).stem, folder)
    artifacts.link("training-report", folder.out / "report.html", f"Training and figures of version {version}")
    return version


@task(name="fit", log_prints=True, **ON_IO)
def fit(resolved: ResolvedSettings, name: str, folder: TrainingFolder) -> str:
    """Train, or take up what lies in `folder`; a retry takes it up too. Returns the version's number."""
    from hire_model.tracking import versions
    from hire_model.tracking.connection import tracking_uri
    from hire_model.training.record import EpochRecord
    from hire_model.workflows import train as workflow

    settings = resolved.settings
    if not (settings.tracking.enabled and settings.tracking.register_model):
        raise HireError(
            "The flow works on registered models: leave tracking.enabled and tracking.register_model as they are, or "
            "train without the flow ('hire train')."
        )
    if folder.version and any(folder.holds(version) for version in versions.list_versions(settings.tracking)):
        print(f"Version {folder.version} came of the same data, settings and code; nothing to train.")
        return folder.version
    if folder.version:
        print(
            f"{folder.out / STATE} tells of version {folder.version}, but the version of that number in "
            f"{tracking_uri(settings.tracking)} is not there or came of another run: it is trained and registered anew."
        )
    resume = folder.resumable
    print(f"{'Going on from the checkpoint' if resume else 'Training from the beginning'} in {folder.out}")
    if not resume:
        folder.begin()
    show = artifacts.progress("training", f"{settings.train.epochs} epochs")

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
