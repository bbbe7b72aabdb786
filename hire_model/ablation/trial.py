"""What all trainings of an ablation share, and one training."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hire_model.ablation.tables import Origin
from hire_model.data.chosen import Splits
from hire_model.data.store import Dataset, Split
from hire_model.errors import TrainingStopped
from hire_model.evaluation import protocols
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import Result
from hire_model.model.hire import Hire
from hire_model.settings import Settings, flatten, resolve
from hire_model.training.checkpoint import LAST
from hire_model.training.record import FitResult
from hire_model.workflows.fit import fitted, matrix_of

# What does not change a result: where things lie, and how fast it goes.
_FREE = {
    "data.path", "data.workers", "train.out", "train.checkpoint_minutes", "train.threads", "evaluate.budget_mb",
    "evaluate.bootstrap", "evaluate.examples",
}  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A trial that is to be there in the end: the variant's name, its settings (train.seed is the trial's), its key."""

    variant: str
    settings: Settings
    key: str

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.settings.train.seed


@dataclass(frozen=True)
class Study:
    """What all trials share. overrides: KEY=VALUE as of the command line; out: folder of all that is written."""

    recipe: str
    overrides: Sequence[str]
    seeds: Sequence[int]
    out: Path
    dataset: Dataset

    def plan(self, variants: Iterable[tuple[str, Mapping[str, str]]]) -> list[Planned]:
        """The trials, seed by seed, so that a whole table is there early.

        A variant's own settings (name, {key: value}) win over `overrides`, and the seeds over train.seed. Raises
        SettingsError for any of them, before anything is trained.
        """
        trials = []
        for seed, (name, mine) in itertools.product(self.seeds, variants):
            given = [*self.overrides, *(f"{key}={value}" for key, value in mine.items()), f"train.seed={seed}"]
            settings = resolve(self.recipe, given).settings
            trials.append(Planned(name, settings, key_of(settings, self.dataset.manifest.digest)))
        return trials

    def split(self, settings: Settings) -> Split:
        """The split on which variants are compared: data.test, or else data.dev.

        Raises HireError if it does not fit the protocol.
        """
        split = Splits.of(self.dataset, settings.data).test
        protocols.check_fit(split.owner, len(split.images), settings.evaluate.protocol)
        return split

    def origin(self, settings: Settings, results: Iterable[Result]) -> Origin:
        """Where figures come from; `results` name the machines, which need not be this one."""
        manifest, known = self.dataset.manifest, collect_facts()
        dirty = " with changes" if known.get("git.dirty") == "true" else ""
        commit = f", commit {known['git.commit'][:12]}{dirty}" if "git.commit" in known else ""
        return Origin(
            command=known["command"],
            recipe=self.recipe,
            overrides=[item for item in self.overrides if item.partition("=")[0] not in _FREE],
            data=manifest.name,
            data_digest=manifest.digest,
            split=settings.data.test or settings.data.dev,
            protocol=settings.evaluate.protocol,
            seeds=list(self.seeds),
            code=f"{known['hire']}, torch {known['torch']}{commit}",
            machines=sorted({result.facts["machine"] for result in results}),
        )


def key_of(settings: Settings, digest: str) -> str:
    """A short name of what is trained and judged, and on which data: the same for the same results."""
    flat = flatten(settings.model_dump(mode="json"))
    kept = {k: v for k, v in flat.items() if k not in _FREE and not k.startswith(("tracking.", "gate."))}
    return hashlib.sha256(json.dumps([digest, kept], sort_keys=True).encode()).hexdigest()[:16]


def train(planned: Planned, dataset: Dataset, folder: Path) -> tuple[Hire, FitResult]:
    """The trained model, holding the weights of its best epoch. An interrupted training in `folder` goes on."""
    splits = Splits.of(dataset, planned.settings.data)
    try:
        return fitted(planned.settings, splits, folder, resume=(folder / LAST).is_file())
    except TrainingStopped as error:
        raise TrainingStopped(
            f"Ablation, '{planned.variant}' with seed {planned.seed}: {error} In an ablation leave out --resume: "
            "the same command goes on with what is missing."
        ) from error


def judge(model: Hire, settings: Settings, split: Split) -> Result:
    """The figures of `model` on `split`, with where they come from. No intervals: the seeds give the spread."""
    matrix = matrix_of(model, split, settings.evaluate)
    result = protocols.judge(matrix, split.owner, settings.evaluate.protocol, bootstrap=0)
    return result.model_copy(update={"facts": collect_facts()})
