"""Damage the edges of images as a detector and a scene-graph generator do: relations, boxes or objects are lost.

Training damages a share of its images (train.edge_damage), and `hire ablate edges` those that it evaluates on. The unit
of damage is what a detector can get wrong: a relation, a box, or an object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import Regions

Damage = Literal[
    "relations dropped", "relations shuffled", "edges dropped", "boxes dropped", "boxes shuffled", "objects dropped"
]
DAMAGES: tuple[Damage, ...] = get_args(Damage)
_ON_RELATIONS = ("relations dropped", "relations shuffled", "edges dropped")


@dataclass
class Tally:
    """Counts of relations, and of pairs of regions with boxes: all, and those that were changed."""

    relations: int = 0
    relations_changed: int = 0
    pairs: int = 0
    pairs_changed: int = 0

    @property
    def shares(self) -> tuple[float, float]:
        """Return the shares of relations and of pairs that were changed; 0 if there are none."""
        return self.relations_changed / max(1, self.relations), self.pairs_changed / max(1, self.pairs)


def damage_regions(
    regions: Regions,
    damages: Sequence[Damage],
    shares: Sequence[float],
    rngs: Sequence[np.random.Generator],
    tally: Tally | None = None,
) -> Regions:
    """Damage each image of a batch in its own way.

    | Damage | What changes |
    |---|---|
    | relations dropped | relations are removed |
    | relations shuffled | relations connect two random regions of the image |
    | edges dropped | relations are removed; the spatial graph, and nothing else, loses boxes |
    | boxes dropped, boxes shuffled | regions lose or exchange their boxes, for all stages alike |
    | objects dropped | regions are removed, with their boxes and relations; one always stays |

    Args:
        regions: B images.
        damages: one per image.
        shares: one per image, 0-1: the share of its relations, of its pairs of boxes, or of its objects. As many boxes
            are changed as change this share of pairs. Numbers are rounded up or down at random, so that the share is
            right on average; a larger share also changes what a smaller one does.
        rngs: one generator per image.
        tally: counts the changes.
    """
    tally = Tally() if tally is None else tally
    relations, boxes, boxed = (x.cpu().numpy().copy() for x in (regions.relations, regions.boxes, regions.boxed))
    mask, in_graph = regions.mask.cpu().numpy(), boxed.copy()
    lost_relations, lost_regions = np.zeros(len(relations), bool), np.zeros_like(mask)
    for row, (damage, share, rng) in enumerate(zip(damages, shares, rngs, strict=True)):
        edges, real, with_box = np.flatnonzero(relations[:, 0] == row), *map(np.flatnonzero, (mask[row], boxed[row]))
        # Draw the same numbers for each damage and share.
        rounding, order, ends = rng.random(2), rng.permutation(edges), _draw_pairs(real, len(edges), rng)
        moved, removed = rng.permutation(with_box), rng.permutation(real)
        shuffled = damage.endswith("shuffled")
        chosen = order[: _round_share(len(edges), share, rounding[0]) if damage in _ON_RELATIONS else 0]
        changes_boxes = damage in ("edges dropped", "boxes dropped", "boxes shuffled")
        moved = moved[: _count_boxes_to_change(len(with_box), shuffled, share, rounding[1]) if changes_boxes else 0]
        if damage == "relations shuffled":
            relations[chosen[:, None], [[1, 3]]] = ends[: len(chosen)]
        elif damage == "boxes shuffled":
            boxes[row, moved] = boxes[row, np.roll(moved, 1)]
        elif damage == "objects dropped":
            lost_regions[row, removed[: min(_round_share(len(real), share, rounding[0]), len(real) - 1)]] = True
        elif damage == "boxes dropped":
            boxed[row, moved], boxes[row, moved] = False, 0
        else:
            lost_relations[chosen], in_graph[row, moved] = True, False
        kept = ~lost_regions[row]
        gone = edges[~(kept[relations[edges, 1]] & kept[relations[edges, 3]])]
        tally.relations, tally.relations_changed = (
            tally.relations + len(edges),
            tally.relations_changed + len(chosen) + len(gone),
        )
        unchanged = len(with_box) - len(moved) - int(lost_regions[row, with_box].sum())
        pairs = _count_pairs(len(with_box))
        tally.pairs, tally.pairs_changed = tally.pairs + pairs, tally.pairs_changed + pairs - _count_pairs(unchanged)
    device = regions.mask.device
    kept_rows = torch.from_numpy(np.flatnonzero(~lost_relations)).to(device)
    damaged = dataclasses.replace(
        regions,
        relations=torch.from_numpy(relations).to(device)[kept_rows],
        relation_scores=regions.relation_scores[kept_rows],
        boxes=torch.from_numpy(boxes).to(device),
        boxed=torch.from_numpy(boxed).to(device),
        graph_boxed=torch.from_numpy(in_graph).to(device),
    )
    return drop_regions(damaged, torch.from_numpy(lost_regions).to(device)) if lost_regions.any() else damaged


def drop_regions(regions: Regions, dropped: Tensor) -> Regions:
    """Drop the regions marked in `dropped` [B, R], with their boxes and relations. Each image keeps at least one."""
    mask = regions.mask & ~dropped
    mask |= mark_first(regions.mask) & ~mask.any(dim=1, keepdim=True)
    image, subject, _, object_ = regions.relations.unbind(dim=1)
    edges = mask[image, subject] & mask[image, object_]
    return dataclasses.replace(
        regions,
        features=regions.features.masked_fill(~mask[..., None], 0),
        boxes=regions.boxes.masked_fill(~mask[..., None], 0),
        mask=mask,
        boxed=regions.boxed & mask,
        classes=regions.classes.masked_fill(~mask, -1),
        relations=regions.relations[edges],
        relation_scores=regions.relation_scores[edges],
    )


def mark_first(mask: Tensor) -> Tensor:
    """Return [B, n] bool, True only at the first True of each row."""
    return mask & (mask.cumsum(dim=1) == 1)


def _draw_pairs(real: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw pairs [count, 2] of two different regions of `real`, which has two or more unless `count` is 0."""
    first, step = rng.random((2, count))
    subject = (first * len(real)).astype(int)
    object_ = (subject + 1 + (step * (len(real) - 1)).astype(int)) % max(1, len(real))
    return real[np.stack([subject, object_], axis=1)]


def _count_pairs(count: int) -> int:
    return count * (count - 1) // 2


def _round_share(count: int, share: float, rounding: float) -> int:
    """Return `share` of `count`, rounded up or down at random."""
    return _find_index(np.arange(count + 1) / max(1, count), share, rounding)


def _count_boxes_to_change(count: int, shuffled: bool, share: float, rounding: float) -> int:
    """Return how many of `count` boxes to change so that `share` of the pairs have at least one changed box.

    A single box cannot be permuted, so shuffling changes no box, or two or more.
    """
    if count < 2:
        return count if not shuffled and share == 1 else 0
    counts = np.array([k for k in range(count + 1) if k != count - 1 and (k != 1 or not shuffled)])
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
