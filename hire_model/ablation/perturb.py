"""Wrong edges for a trained model: what its graphs see is dropped or shuffled, everything else stays as it was.

Unit of damage is what a detector gets wrong: a relation for the semantic graph, a box for the spatial one. Only the
input of stage 4 changes, so a box that is lost here still tells stage 1 where its region is.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hire_model.batch import Regions
from hire_model.errors import SettingsError
from hire_model.model.graph import ExplicitRelations
from hire_model.model.hire import Hire

Kind = Literal["dropped", "shuffled"]
KINDS: tuple[Kind, ...] = ("dropped", "shuffled")


@dataclass
class Tally:
    """How many relations, and pairs of regions with boxes, there were, and how many were hit."""

    relations: int = 0
    relations_hit: int = 0
    pairs: int = 0
    pairs_hit: int = 0

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of relations and of pairs that were hit, 0 where there are none."""
        return self.relations_hit / max(1, self.relations), self.pairs_hit / max(1, self.pairs)


@contextlib.contextmanager
def perturbed(model: Hire, kind: Kind, share: float, seed: int) -> Iterator[Tally]:
    """Within, stage 4 of `model` sees `share` (0-1) of its edges dropped or shuffled, for images encoded in order.

    What an image loses is drawn from (seed, its place in that order) alone, the same first edges for each kind and
    share, so that a larger share hits a smaller one's edges too. Raises SettingsError for a model without graphs.
    """
    if model.explicit is None:
        raise SettingsError("model.graphs=none: there are no edges to drop. Set model.graphs=both.")
    hook = _Hook(kind, share, seed)
    handle = model.explicit.register_forward_pre_hook(hook)
    try:
        yield hook.tally
    finally:
        handle.remove()


@dataclass
class _Hook:
    kind: Kind
    share: float
    seed: int
    seen: int = 0
    tally: Tally = field(default_factory=Tally)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, Regions]:
        v, regions = inputs
        assert isinstance(module, ExplicitRelations)
        if (
            module.semantic is not None
        ):  # only what makes an edge counts, and no weaker relation takes a lost one's place
            regions = _only(regions, module.semantic.select_relations(regions).sort().values)
        rngs = [np.random.default_rng([self.seed, self.seen + row]) for row in range(len(regions))]
        self.seen += len(regions)
        return v, perturb(regions, self.kind, self.share, rngs, self.tally)


def perturb(regions: Regions, kind: Kind, share: float, rngs: list[np.random.Generator], tally: Tally) -> Regions:
    """`regions` with `share` of the relations of each image, and boxes for `share` of its pairs of boxes, hit.

    dropped: the relation goes; the region has no box. shuffled: the relation lies between two regions of the image
    drawn at random; the boxes that are hit change places. The number hit is rounded up or down at random, so that the
    share is right on average. rngs: one per image.
    """
    relations, boxes, boxed = (x.cpu().numpy().copy() for x in (regions.relations, regions.boxes, regions.boxed))
    mask, lost = regions.mask.cpu().numpy(), np.zeros(len(relations), bool)
    for row, rng in enumerate(rngs):
        edges, real, known = (
            np.flatnonzero(relations[:, 0] == row),
            np.flatnonzero(mask[row]),
            np.flatnonzero(boxed[row]),
        )
        rounding, order = rng.random(2), rng.permutation(edges)
        hit = order[: _count(np.arange(len(edges) + 1) / max(1, len(edges)), share, rounding[0])]
        ends = _two_of(real, len(edges), rng)
        places = rng.permutation(known)
        moved = places[: _boxes_to_hit(len(known), kind, share, rounding[1])]
        if kind == "dropped":
            lost[hit] = True
            boxed[row, moved], boxes[row, moved] = False, 0
        else:
            relations[hit[:, None], [[1, 3]]] = ends[: len(hit)]
            boxes[row, moved] = boxes[row, np.roll(moved, 1)]
        tally.relations, tally.relations_hit = tally.relations + len(edges), tally.relations_hit + len(hit)
        left = len(known) - len(moved)
        tally.pairs += _pairs(len(known))
        tally.pairs_hit += _pairs(len(known)) - _pairs(left)
    device = regions.mask.device
    changed = dataclasses.replace(
        regions,
        relations=torch.from_numpy(relations).to(device),
        boxes=torch.from_numpy(boxes).to(device),
        boxed=torch.from_numpy(boxed).to(device),
    )
    return _only(changed, torch.from_numpy(np.flatnonzero(~lost)).to(device))


def _only(regions: Regions, rows: Tensor) -> Regions:
    return dataclasses.replace(
        regions, relations=regions.relations[rows], relation_scores=regions.relation_scores[rows]
    )


def _two_of(real: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 2], two different regions of `real` each. A relation between a region and itself never gets here."""
    first, step = rng.random((2, count))
    subject = (first * len(real)).astype(int)
    object_ = (subject + 1 + (step * (len(real) - 1)).astype(int)) % max(1, len(real))
    return real[np.stack([subject, object_], axis=1)]


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _boxes_to_hit(count: int, kind: Kind, share: float, rounding: float) -> int:
    """How many of `count` boxes are hit so that `share` of the pairs have at least one end that is.

    A single box cannot change places, so shuffling hits none or two and more.
    """
    if count < 2:
        return count if kind == "dropped" and share == 1 else 0
    hits = np.array([k for k in range(count + 1) if k != count - 1 and (k != 1 or kind == "dropped")])
    reached = np.array([1 - _pairs(count - k) / _pairs(count) for k in hits])
    return int(hits[_count(reached, share, rounding)])


def _count(reached: np.ndarray, share: float, rounding: float) -> int:
    """The index i at which the rising shares `reached` (from 0) come to `share`, between two rounded at random.

    rounding [0, 1): for a fixed one the index never falls as the share grows.
    """
    above = int(np.searchsorted(reached, share))
    if above == 0 or above >= len(reached):
        return min(above, len(reached) - 1)
    low, high = reached[above - 1], reached[above]
    return above if rounding < (share - low) / (high - low) else above - 1
