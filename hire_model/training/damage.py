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
    arrays = _Arrays.copy(regions)
    for row, (damage, share, rng) in enumerate(zip(damages, shares, rngs, strict=True)):
        _damage_image(arrays, row, damage, share, rng, Tally() if tally is None else tally)
    device = regions.mask.device
    kept = torch.from_numpy(np.flatnonzero(~arrays.lost_relations)).to(device)
    damaged = dataclasses.replace(
        regions,
        relations=torch.from_numpy(arrays.relations).to(device)[kept],
        relation_scores=regions.relation_scores[kept],
        boxes=torch.from_numpy(arrays.boxes).to(device),
        boxed=torch.from_numpy(arrays.boxed).to(device),
        graph_boxed=torch.from_numpy(arrays.graph_boxed).to(device),
    )
    lost = torch.from_numpy(arrays.lost_regions).to(device)
    return drop_regions(damaged, lost) if lost.any() else damaged


@dataclass
class _Arrays:
    """The parts of `Regions` that damage changes, as copies, and what is lost: relations [E] and regions [B, R]."""

    relations: np.ndarray
    boxes: np.ndarray
    boxed: np.ndarray
    graph_boxed: np.ndarray
    mask: np.ndarray
    lost_relations: np.ndarray
    lost_regions: np.ndarray

    @classmethod
    def copy(cls, regions: Regions) -> _Arrays:
        relations, boxes, boxed, mask = (
            tensor.cpu().numpy().copy() for tensor in (regions.relations, regions.boxes, regions.boxed, regions.mask)
        )
        lost_relations, lost_regions = np.zeros(len(relations), bool), np.zeros_like(mask)
        return cls(relations, boxes, boxed, boxed.copy(), mask, lost_relations, lost_regions)


def _damage_image(
    arrays: _Arrays, row: int, damage: Damage, share: float, rng: np.random.Generator, tally: Tally
) -> None:
    """Damage one image in place, and count the changes."""
    edges, real = np.flatnonzero(arrays.relations[:, 0] == row), np.flatnonzero(arrays.mask[row])
    with_box = np.flatnonzero(arrays.boxed[row])
    # Draw the same numbers for each damage and share.
    rounding, order, ends = rng.random(2), rng.permutation(edges), _draw_pairs(real, len(edges), rng)
    relations = order[: _round_share(len(edges), share, rounding[0])]
    boxes = _choose_boxes(rng.permutation(with_box), damage == "boxes shuffled", share, rounding[1])
    objects = rng.permutation(real)[: min(_round_share(len(real), share, rounding[0]), len(real) - 1)]
    if damage not in ("relations dropped", "relations shuffled", "edges dropped"):
        relations = relations[:0]
    if damage not in ("edges dropped", "boxes dropped", "boxes shuffled"):
        boxes = boxes[:0]
    if damage == "relations shuffled":
        arrays.relations[relations[:, None], [[1, 3]]] = ends[: len(relations)]
    elif damage == "boxes shuffled":
        arrays.boxes[row, boxes] = arrays.boxes[row, np.roll(boxes, 1)]
    elif damage == "boxes dropped":
        arrays.boxed[row, boxes], arrays.boxes[row, boxes] = False, 0
    elif damage == "objects dropped":
        arrays.lost_regions[row, objects] = True
        relations = edges[np.isin(arrays.relations[edges][:, [1, 3]], objects).any(axis=1)]
        boxes = np.intersect1d(with_box, objects)
    else:
        arrays.lost_relations[relations], arrays.graph_boxed[row, boxes] = True, False
    tally.relations, tally.relations_changed = tally.relations + len(edges), tally.relations_changed + len(relations)
    pairs, unchanged = _count_pairs(len(with_box)), _count_pairs(len(with_box) - len(boxes))
    tally.pairs, tally.pairs_changed = tally.pairs + pairs, tally.pairs_changed + pairs - unchanged


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


def close_gaps(regions: Regions) -> Regions:
    """Move the regions of each image to the front, in their order, and cut the padding that no image needs."""
    mask = regions.mask
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)[:, : int(mask.sum(dim=1).max())]
    row, place = torch.arange(len(mask))[:, None], mask.cumsum(dim=1) - 1
    image, subject, predicate, object_ = regions.relations.unbind(dim=1)
    return dataclasses.replace(
        regions,
        features=regions.features[row, order],
        boxes=regions.boxes[row, order],
        mask=mask[row, order],
        boxed=regions.boxed[row, order],
        classes=regions.classes[row, order],
        relations=torch.stack([image, place[image, subject], predicate, place[image, object_]], dim=1),
        graph_boxed=None if regions.graph_boxed is None else regions.graph_boxed[row, order],
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


def _choose_boxes(boxes: np.ndarray, shuffled: bool, share: float, rounding: float) -> np.ndarray:
    """Return as many of `boxes` as change `share` of their pairs: a pair changes if one of its boxes does.

    A single box cannot be exchanged, so shuffling changes no box, or two or more.
    """
    count = len(boxes)
    if count < 2:
        return boxes if not shuffled and share == 1 else boxes[:0]
    counts = np.array([k for k in range(count + 1) if k != count - 1 and (k != 1 or not shuffled)])
    reached = np.array([1 - _count_pairs(count - k) / _count_pairs(count) for k in counts])
    return boxes[: counts[_find_index(reached, share, rounding)]]


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
