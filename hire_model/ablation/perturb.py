"""Give a trained model wrong edges: drop or shuffle the input of its graphs.

The unit of change is what a detector can get wrong: a relation for the semantic graph, a box for the spatial graph.
Only the input of stage 4 changes; stage 1 still gets the original boxes.
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
    """Counts of relations and of pairs of regions with boxes: all, and those that were changed."""

    relations: int = 0
    relations_changed: int = 0
    pairs: int = 0
    pairs_changed: int = 0

    @property
    def shares(self) -> tuple[float, float]:
        """Return the shares of relations and of pairs that were changed; 0 if there are none."""
        return self.relations_changed / max(1, self.relations), self.pairs_changed / max(1, self.pairs)


@contextlib.contextmanager
def perturb_edges(model: Hire, kind: Kind, share: float, seed: int) -> Iterator[Tally]:
    """Inside the block, drop or shuffle `share` (0-1) of the edges that stage 4 of `model` gets.

    The edges to change depend only on the seed and on the image's position in the encoding order. A larger share also
    changes the edges of a smaller one, because the edges have the same random order for each kind and share. Raise
    SettingsError for a model without graphs.
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
        if module.semantic is not None:
            # Use only the relations that make an edge, so that no weaker relation replaces a dropped one.
            regions = _select_relations(regions, module.semantic.select_relations(regions).sort().values)
        rngs = [np.random.default_rng([self.seed, self.seen + row]) for row in range(len(regions))]
        self.seen += len(regions)
        return v, perturb_regions(regions, self.kind, self.share, rngs, self.tally)


def perturb_regions(
    regions: Regions, kind: Kind, share: float, rngs: list[np.random.Generator], tally: Tally
) -> Regions:
    """Change `share` of the relations of each image, and as many boxes as change `share` of its pairs of boxes.

    The number of changes is rounded up or down at random, so that the share is right on average.

    Args:
        regions: a batch of images.
        kind: dropped: remove the relation or the box. shuffled: connect two random regions of the image by the
            relation; permute the chosen boxes.
        share: 0-1.
        rngs: one generator per image.
        tally: counts the changes.
    """
    relations, boxes, boxed = (x.cpu().numpy().copy() for x in (regions.relations, regions.boxes, regions.boxed))
    mask, dropped = regions.mask.cpu().numpy(), np.zeros(len(relations), bool)
    for row, rng in enumerate(rngs):
        edges, real = np.flatnonzero(relations[:, 0] == row), np.flatnonzero(mask[row])
        with_box = np.flatnonzero(boxed[row])
        rounding, order = rng.random(2), rng.permutation(edges)
        chosen = order[: _find_index(np.arange(len(edges) + 1) / max(1, len(edges)), share, rounding[0])]
        ends = _draw_pairs(real, len(edges), rng)
        moved = rng.permutation(with_box)[: _count_boxes_to_change(len(with_box), kind, share, rounding[1])]
        if kind == "dropped":
            dropped[chosen] = True
            boxed[row, moved], boxes[row, moved] = False, 0
        else:
            relations[chosen[:, None], [[1, 3]]] = ends[: len(chosen)]
            boxes[row, moved] = boxes[row, np.roll(moved, 1)]
        tally.relations, tally.relations_changed = tally.relations + len(edges), tally.relations_changed + len(chosen)
        pairs, unchanged = _count_pairs(len(with_box)), _count_pairs(len(with_box) - len(moved))
        tally.pairs, tally.pairs_changed = tally.pairs + pairs, tally.pairs_changed + pairs - unchanged
    device = regions.mask.device
    changed = dataclasses.replace(
        regions,
        relations=torch.from_numpy(relations).to(device),
        boxes=torch.from_numpy(boxes).to(device),
        boxed=torch.from_numpy(boxed).to(device),
    )
    return _select_relations(changed, torch.from_numpy(np.flatnonzero(~dropped)).to(device))


def _select_relations(regions: Regions, rows: Tensor) -> Regions:
    return dataclasses.replace(
        regions, relations=regions.relations[rows], relation_scores=regions.relation_scores[rows]
    )


def _draw_pairs(real: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw pairs [count, 2] of two different regions of `real`, which has two or more unless `count` is 0."""
    first, step = rng.random((2, count))
    subject = (first * len(real)).astype(int)
    object_ = (subject + 1 + (step * (len(real) - 1)).astype(int)) % max(1, len(real))
    return real[np.stack([subject, object_], axis=1)]


def _count_pairs(count: int) -> int:
    return count * (count - 1) // 2


def _count_boxes_to_change(count: int, kind: Kind, share: float, rounding: float) -> int:
    """Return how many of `count` boxes to change so that `share` of the pairs have at least one changed box.

    A single box cannot be permuted, so shuffling changes no box, or two or more.
    """
    if count < 2:
        return count if kind == "dropped" and share == 1 else 0
    counts = np.array([k for k in range(count + 1) if k != count - 1 and (k != 1 or kind == "dropped")])
    reached = np.array([1 - _count_pairs(count - k) / _count_pairs(count) for k in counts])
    return int(counts[_find_index(reached, share, rounding)])


def _find_index(reached: np.ndarray, share: float, rounding: float) -> int:
    """Return the index at which the increasing shares `reached` (from 0) reach `share`.

    Between two indices, return the upper one with the probability that makes the share right on average. rounding: a
    random number in [0, 1); for a fixed value, a larger share never gives a smaller index.
    """
    above = int(np.searchsorted(reached, share))
    if above == 0 or above >= len(reached):
        return min(above, len(reached) - 1)
    low, high = reached[above - 1], reached[above]
    return above if rounding < (share - low) / (high - low) else above - 1
