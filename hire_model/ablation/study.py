"""The parts that all ablations share: the plan of trials, their training, and the file of their records.

A study trains variants of one recipe, each with several seeds. A trial is one variant with one seed; its record holds
its figures.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.ablation.tables import Origin
from hire_model.data.splits import open_splits
from hire_model.data.store import Dataset, Split
from hire_model.errors import HireError, TrainingStopped
from hire_model.evaluation import protocols
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import Result
from hire_model.model.hire import Hire
from hire_model.settings import Settings, resolve
from hire_model.settings.fingerprint import changes_result, compute_training_key
from hire_model.training.checkpoint import LAST
from hire_model.training.record import FitResult
from hire_model.workflows.evaluate import score_split
from hire_model.workflows.train import fit_model

log = logging.getLogger(__name__)
_KEY_LENGTH = 16


@dataclass(frozen=True)
class Trial:
    """A variant with one seed. settings: include train.seed; key: identifies the settings and the data."""

    variant: str
    settings: Settings
    key: str

    @property
    def seed(self) -> int:
        """Return the seed of the trial."""
        return self.settings.train.seed


@dataclass(frozen=True)
class Study:
    """The inputs of an ablation. overrides: KEY=VALUE as on the command line; out: folder for all files."""

    recipe: str
    overrides: Sequence[str]
    seeds: Sequence[int]
    out: Path
    dataset: Dataset

    def plan(self, variants: Iterable[tuple[str, Mapping[str, str]]]) -> list[Trial]:
        """List the trials of the variants (name, {key: value}).

        All variants of the first seed come first, so that a table of all variants exists early. The settings of a
        variant override `overrides`, and the seeds override train.seed. Raise SettingsError for a wrong setting.
        """
        trials = []
        for seed, (name, changes) in itertools.product(self.seeds, variants):
            overrides = [*self.overrides, *(f"{key}={value}" for key, value in changes.items()), f"train.seed={seed}"]
            settings = resolve(self.recipe, overrides).settings
            key = compute_training_key(settings, self.dataset.manifest.digest)[:_KEY_LENGTH]
            trials.append(Trial(name, settings, key))
        return trials

    def open_split(self, settings: Settings) -> Split:
        """Open the split on which variants are compared. Raise HireError if it does not fit the protocol."""
        split = open_splits(self.dataset, settings.data).test
        protocols.check_fit(split.owner, len(split.images), settings.evaluate.protocol)
        return split

    def describe_origin(self, settings: Settings, results: Iterable[Result]) -> Origin:
        """Describe the origin of the figures. results: name the machines, which may differ from this one."""
        manifest, facts = self.dataset.manifest, collect_facts()
        dirty = " with changes" if facts.get("git.dirty") == "true" else ""
        commit = f", commit {facts['git.commit'][:12]}{dirty}" if "git.commit" in facts else ""
        return Origin(
            command=facts["command"],
            recipe=self.recipe,
            overrides=[item for item in self.overrides if changes_result(item.partition("=")[0])],
            data=manifest.name,
            data_digest=manifest.digest,
            split=settings.data.evaluation_split.name,
            protocol=settings.evaluate.protocol,
            seeds=list(self.seeds),
            code=f"{facts['hire']}, torch {facts['torch']}{commit}",
            machines=sorted({result.facts["machine"] for result in results}),
        )


class TrialRecord(BaseModel):
    """The stored part of a trial. Its key does not depend on the code: after a code change, delete the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    variant: str
    seed: int


R = TypeVar("R", bound=TrialRecord)


class RecordFile(Generic[R]):
    """A file of records as JSON lines. A record is appended in one write, so several processes may share the file."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path, self.kind = path, kind

    def read(self) -> dict[str, R]:
        """Read the records by key. Log and skip a broken line, which a crash during a write leaves."""
        records: dict[str, R] = {}
        lines = self.path.read_text("utf-8").splitlines() if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                record = self.kind.model_validate_json(line)
            except ValidationError:
                if line:
                    log.warning("%s, line %d: skipped; it is not a record of this version of hire.", self.path, number)
                continue
            records[record.key] = record
        return records

    def append(self, record: R) -> None:
        """Append `record` and sync it to disk. Raise HireError if the file cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                is_broken = file.read(1) not in (b"", b"\n")
                file.write(b"\n" * is_broken + record.model_dump_json().encode() + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise HireError(f"{self.path}: cannot be written: {error.strerror or error}.") from error


def run_missing_trials(
    trials: Sequence[Trial],
    file: RecordFile[R],
    run_trial: Callable[[Trial], R],
    after_each: Callable[[Mapping[str, R]], object],
) -> dict[str, R]:
    """Run each trial without a record in `file`; return all records by key.

    after_each: called after each trial with the records so far.
    """
    records = file.read()
    for number, trial in enumerate(trials, 1):
        if trial.key in records:
            continue
        log.info("Trial %d of %d: %s, seed %d", number, len(trials), trial.variant, trial.seed)
        records[trial.key] = run_trial(trial)
        file.append(records[trial.key])
        after_each(records)
    return records


def train_trial(trial: Trial, dataset: Dataset, folder: Path) -> tuple[Hire, FitResult]:
    """Train a model and return it with the weights of its best epoch. Resume an interrupted training in `folder`."""
    splits = open_splits(dataset, trial.settings.data)
    try:
        return fit_model(trial.settings, splits, folder, resume=(folder / LAST).is_file())
    except TrainingStopped as error:
        raise TrainingStopped(
            f"Ablation, '{trial.variant}' with seed {trial.seed}: {error} For an ablation, omit --resume: "
            "the same command continues with the missing trials."
        ) from error


def evaluate_model(model: Hire, settings: Settings, split: Split) -> Result:
    """Evaluate `model` on `split`, without confidence intervals, because the seeds show the spread."""
    matrix = score_split(model, split, settings.evaluate)
    result = protocols.evaluate_matrix(matrix, split.owner, settings.evaluate.protocol, bootstrap=0)
    return result.model_copy(update={"facts": collect_facts()})
