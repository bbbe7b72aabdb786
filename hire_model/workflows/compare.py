"""Compare two models on the same data: every recall, the differences, and their paired bootstrap intervals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hire_model.data.splits import open_dataset
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.evaluation import protocols
from hire_model.evaluation.bootstrap import FIGURES, bootstrap_differences
from hire_model.evaluation.protocols import Ranks
from hire_model.evaluation.provenance import collect_facts
from hire_model.evaluation.result import Interval, Result
from hire_model.files import write_text
from hire_model.scoring.kept_scores import KeptScores
from hire_model.settings import Settings
from hire_model.tracking import registry, versions
from hire_model.workflows.evaluate import load_model, score_split
from hire_model.workflows.evaluation_data import describe_evaluation, name_model, use_common_data

log = logging.getLogger(__name__)

_SEED = 0
_DRAWS = 1000  # if evaluate.bootstrap is 0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ComparedFigure(_Frozen):
    """One figure of both models; `interval` is the 95 % paired bootstrap interval of first - second."""

    first: float
    second: float
    difference: float
    interval: Interval

    @property
    def larger_than_chance(self) -> bool:
        """Whether the interval does not contain 0."""
        low, high = self.interval
        return low > 0 or high < 0


class ModelComparison(_Frozen):
    """Two models on one split under one protocol. figures: 'i2t_r1' ... 't2i_r10' in 0-100, and 'rsum'."""

    first: str
    second: str
    protocol: str
    split: str
    images: int
    captions: int
    bootstrap: int
    seed: int
    figures: dict[str, ComparedFigure]
    facts: dict[str, str]

    def conclude(self) -> str:
        """State in one sentence whether the difference of rSum is larger than chance."""
        rsum = self.figures["rsum"]
        low, high = rsum.interval
        found = f"{rsum.difference:+.1f} (95 % interval {low:+.1f} to {high:+.1f})"
        if not rsum.larger_than_chance:
            return f"The difference of rSum, {found}, is not larger than chance: the interval contains 0."
        better, worse = ("A", "B") if rsum.difference > 0 else ("B", "A")
        return f"The difference of rSum, {found}, is larger than chance: {better} is better than {worse} on this split."


def compare(
    first: str,
    second: str,
    settings: Settings,
    split: str,
    figures: Path | None = None,
    limit: int = 0,
    announce: Callable[[str], None] = log.info,
) -> ModelComparison:
    """Compare two models on one split. The interval covers the choice of images, not the training seed.

    Args:
        first: address (models:/hire@challenger) or folder.
        second: the same of the other model.
        settings: name the data set, the protocol and the number of bootstrap draws.
        split: name of the split.
        figures: JSON file to write.
        limit: number of images to use, from the first; 0 for all.
        announce: called before the evaluation, with a line that names both models, data set, digest, split and images.

    Raises:
        HireError: no such model, split or protocol, or the features are not those that a model was trained on.
    """
    if not split:
        raise HireError("split: the name is empty; 'hire data show' lists the splits of a data set.")
    found = [versions.find_by_address(settings.tracking, model) for model in (first, second)]
    settings = use_common_data(settings, found)
    chosen = open_dataset(settings.data).split(split, limit)
    protocol = protocols.check_fit(chosen.owner, len(chosen.images), settings.evaluate.protocol)
    folders = [registry.fetch(model, settings.tracking) for model in (first, second)]
    names = [name_model(*each) for each in zip((first, second), found, strict=True)]
    announce(describe_evaluation(" and ".join(names), chosen, found))
    with KeptScores() as kept:
        (ranks_first, result_first), (ranks_second, result_second) = (
            _measure(folder, chosen, settings, kept) for folder in folders
        )
    manifest = chosen.dataset.manifest
    draws = settings.evaluate.bootstrap or _DRAWS
    intervals = bootstrap_differences(
        (ranks_first.i2t, ranks_first.t2i),
        (ranks_second.i2t, ranks_second.t2i),
        chosen.owner,
        ranks_first.fold,
        draws,
        _SEED,
    )
    comparison = ModelComparison(
        first=names[0],
        second=names[1],
        protocol=protocol.name,
        split=split,
        images=len(chosen.images),
        captions=len(chosen.captions),
        bootstrap=draws,
        seed=_SEED,
        figures={name: _compare_figure(name, result_first, result_second, intervals[name]) for name in FIGURES},
        facts=collect_facts() | {"data": manifest.name, "data digest": manifest.digest},
    )
    if figures:
        write_text(comparison.model_dump_json(indent=1) + "\n", figures)
    return comparison


def _measure(folder: Path, split: Split, settings: Settings, kept: KeptScores) -> tuple[Ranks, Result]:
    """Score the split with the model in `folder`; the similarity matrix is not kept."""
    matrix = score_split(load_model(folder, settings), split, settings.evaluate, kept)
    ranks = protocols.rank_under_protocol(matrix, split.owner, settings.evaluate.protocol)
    return ranks, protocols.evaluate_matrix(matrix, split.owner, settings.evaluate.protocol, bootstrap=0, ranks=ranks)


def _compare_figure(name: str, first: Result, second: Result, interval: Interval) -> ComparedFigure:
    a, b = (result.metrics()[f"{result.protocol}/{name}"] for result in (first, second))
    return ComparedFigure(first=a, second=b, difference=a - b, interval=interval)
