"""Flow `train`: train a model, or resume an interrupted training, and register the model as the challenger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import flow, task

from flows.parameters import Data, Fresh, Hours, Overrides, Recipe, resolve_settings
from flows.prefect_support import RETRY_IO, hash_code, name_runs, read_data_state, show_page, show_progress
from hire_model.data.splits import open_dataset
from hire_model.errors import HireError, TrainingStopped
from hire_model.files import write_text
from hire_model.settings import ResolvedSettings, Settings
from hire_model.settings.fingerprint import compute_training_key
from hire_model.tracking.versions import Version
from hire_model.training.checkpoint import LAST, set_aside_previous
from hire_model.training.run_folder import choose_run_folder

LOCK = "retrain.lock"
STATE = "flow.json"


@flow(name="train", flow_run_name=name_runs("train"), log_prints=True)
def train(
    recipe: Recipe = "synthetic",
    data: Data = "",
    overrides: Overrides = (),
    fresh: Fresh = False,
    hours: Hours = 24.0,
) -> str:
    """Train and register a model. Artifacts: a progress bar, a link to the report.

    An interrupted training with the same data, settings and code resumes from its checkpoint. A finished one is not
    repeated. With `fresh`, both train again from the beginning.

    Returns:
        The number of the registered version.

    Raises:
        HireError: the settings or the data are invalid, MLflow does not answer, or another retrain is running.
    """
    resolved = resolve_settings(recipe, data, overrides)
    with hold_lock(resolved.settings):
        folder = TrainingFolder.from_settings(resolved.settings)
        if fresh:
            folder.forget()
        version = train_model.with_options(timeout_seconds=hours * 3600)(resolved, Path(recipe).stem, folder)
    link = link_report(resolved.settings, version)
    show_page("training-report", folder.out / "report.html", f"Training and figures of version {version}", link)
    return version


def link_report(settings: Settings, version: str) -> str:
    """Return the address of the version's report in MLflow's interface, "" if the store is not a server."""
    from hire_model.tracking import versions

    return versions.link_artifact(
        settings.tracking, versions.find(settings.tracking, version), "evaluation/report.html"
    )


@contextmanager
def hold_lock(settings: Settings) -> Iterator[None]:
    """Hold a file lock in the parent folder of train.out, so that only one retrain runs at a time.

    The lock works with and without a Prefect server; runs of a deployment wait in a queue instead (prefect.yaml). A
    process can acquire it several times, and releases it when it dies. Raises HireError if another process holds it.
    """
    folder = settings.train.out.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise HireError(
            f"{folder / LOCK}: another retrain is running in {folder}. Wait until it ends, or set another folder: "
            "train.out=runs2/latest."
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class TrainingFolder:
    """The state of one training in its folder `out` (train.out). Files of a training with another `key` are ignored."""

    out: Path
    key: str

    @classmethod
    def from_settings(cls, settings: Settings) -> TrainingFolder:
        """Compute the key from the settings, the state of the data and the code of hire_model."""
        data = read_data_state(open_dataset(settings.data).folder)
        return cls(settings.train.out, compute_training_key(settings, data, hash_code("hire_model")))

    @property
    def version(self) -> str:
        """The number of the version that this training registered; empty if it has not finished."""
        return str(self._read_state().get("version", ""))

    @property
    def resumable(self) -> bool:
        """Whether the folder has a checkpoint of this training."""
        return bool(self._read_state()) and (self.out / LAST).is_file()

    def begin(self) -> None:
        """Rename the files of an earlier training, then write this training's key.

        The files are renamed first. If the process is killed before the key is written, the old checkpoint is not taken
        for this training's.
        """
        set_aside_previous(self.out)
        self._write_state({"key": self.key})

    def end(self, version: str, run: str) -> None:
        """Write the number of the registered version, and the id of the MLflow run that trained it."""
        self._write_state({"key": self.key, "version": version, "run": run})

    def has_registered(self, version: Version) -> bool:
        """Return whether this training registered `version`.

        Compare the run id too, because every MLflow store numbers its versions from 1.
        """
        state = self._read_state()
        return bool(version.run_id) and (state.get("version"), state.get("run")) == (version.number, version.run_id)

    def forget(self) -> None:
        """Delete the state, so that the next training starts from the beginning."""
        (self.out / STATE).unlink(missing_ok=True)

    def _read_state(self) -> dict[str, str]:
        path = self.out / STATE
        state: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return state if state.get("key") == self.key else {}

    def _write_state(self, state: dict[str, str]) -> None:
        write_text(json.dumps(state) + "\n", self.out / STATE)


@task(name="train model", log_prints=True, **RETRY_IO)
def train_model(resolved: ResolvedSettings, name: str, folder: TrainingFolder) -> str:
    """Train, or resume the training in `folder`; a retry resumes too. Return the number of the registered version."""
    from hire_model.tracking import versions
    from hire_model.training.record import EpochRecord
    from hire_model.workflows import train as workflow

    settings = resolved.settings
    if not (settings.tracking.enabled and settings.tracking.register_model):
        raise HireError(
            "tracking.enabled, tracking.register_model: one of them is false, but the flow works with registered "
            "models. Set both to true, or train without the flow: 'hire train'."
        )
    if _is_registered(folder, settings):
        print(f"Version {folder.version} was trained with the same data, settings and code; nothing to train.")
        return folder.version
    resume = folder.resumable
    resolved = choose_run_folder(resolved, resume)
    folder = replace(folder, out=resolved.settings.train.out)
    print(f"{'Resuming from the checkpoint' if resume else 'Training from the beginning'} in {folder.out}")
    if not resume:
        folder.begin()
    set_progress = show_progress("training", f"{settings.train.epochs} epochs")

    def on_epoch(record: EpochRecord) -> None:
        set_progress((record.epoch + 1) / settings.train.epochs)

    try:
        trained = workflow.train(resolved, name, resume, on_epoch)
    except TrainingStopped as error:
        raise TrainingStopped(f"{error} A flow has no --resume: start the same run again, and it resumes.") from error
    if trained is None:
        raise HireError(
            "RANK: several processes are running, but a flow trains in one process. Start it without torchrun."
        )
    folder.end(trained.version, versions.find(settings.tracking, trained.version).run_id)
    return trained.version


def _is_registered(folder: TrainingFolder, settings: Settings) -> bool:
    """Return whether this training has finished and its version is in the store."""
    from hire_model.tracking import versions
    from hire_model.tracking.connection import tracking_uri

    if not folder.version:
        return False
    if any(folder.has_registered(version) for version in versions.list_versions(settings.tracking)):
        return True
    print(
        f"{folder.out / STATE} has version {folder.version}, but {tracking_uri(settings.tracking)} has no such version "
        "of the same run. The model is trained and registered again."
    )
    return False
