"""Relations by rules about boxes. docs/relations.md lists the rules for users; change both together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import JsonValue

from hire_model.data.boxes import compute_intersection
from hire_model.data.relations.maker import PER_REGION, RegionBlock, Triplets, select_triplets

PREDICATES = ("inside", "overlapping", "left of", "right of", "above", "below")
CELLS = 15
INSIDE = 0.9  # share of a box inside another one
_OVERLAPPING = 0.5
_TOUCHING = 0.1  # share of the smaller box
_LEVEL = 0.25  # vertical offset of the centres, in mean heights
_VERSION = 1  # raise it when the same boxes give other relations


@dataclass(frozen=True)
class PairGeometry:
    """Geometry of all pairs of boxes of a block; independent of the unit of the boxes.

    share     [B, R, R] share of box i that is inside box j
    distance  [B, R, R] of the centres, in means of the two diagonals
    right     [B, R, R] offset of the centre of box j from that of box i, in the unit of the boxes
    down      the same, downwards
    area      [B, R] of the boxes
    height    [B, R]
    """

    share: np.ndarray
    distance: np.ndarray
    right: np.ndarray
    down: np.ndarray
    area: np.ndarray
    height: np.ndarray


def measure_pairs(boxes: np.ndarray) -> PairGeometry:
    """Measure all pairs of boxes [B, R, 4]."""
    wide, high = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    area, diagonal = wide * high, np.hypot(wide, high)
    right, down = (
        centre[:, None] - centre[:, :, None] for centre in (boxes[..., 0] + wide / 2, boxes[..., 1] + high / 2)
    )
    mean = (diagonal[:, :, None] + diagonal[:, None]) / 2
    both = compute_intersection(torch.from_numpy(boxes)).numpy()
    return PairGeometry(
        share=both / np.maximum(area, 1e-12)[:, :, None],
        distance=np.hypot(right, down) / np.maximum(mean, 1e-12),
        right=right,
        down=down,
        area=area,
        height=high,
    )


def mark_related_pairs(regions: RegionBlock) -> np.ndarray:
    """Return [B, R, R] bool, True for pairs of two different regions that can have relations."""
    pairs = regions.related[:, :, None] & regions.related[:, None]
    return pairs & ~np.eye(pairs.shape[1], dtype=bool)


def number_cells(pairs: PairGeometry) -> np.ndarray:
    """Return [B, R, R] int64 in 0-14, a coarse description of the geometry for the learned prior.

    Three times one of: i inside j, j inside i, overlapping, near, far; plus 0 if i is above j, 1 level, 2 below.
    """
    other = pairs.share.transpose(0, 2, 1)
    kind = np.select(
        [pairs.share >= INSIDE, other >= INSIDE, np.maximum(pairs.share, other) >= _TOUCHING, pairs.distance < 1],
        [0, 1, 2, 3],
        4,
    )
    offset = pairs.down / np.maximum((pairs.height[:, :, None] + pairs.height[:, None]) / 2, 1e-12)
    return 3 * kind + np.select([offset > _LEVEL, offset < -_LEVEL], [0, 2], 1)


class GeometryRules:
    """Relate each region to its nearest larger regions.

    Args:
        top: relations in which a region is the subject.
    """

    kind = "geometry"

    def __init__(self, top: int = PER_REGION) -> None:
        self.top = top
        self.options: dict[str, JsonValue] = {"top": top}
        self.name = f"geometry rules, {top} per region"
        facts = {"version": _VERSION, "top": top, "predicates": PREDICATES}
        self.digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.weights: bytes | None = None
        self.predicates: tuple[str, ...] = PREDICATES
        self.classes: tuple[str, ...] | None = None

    def relate(self, regions: RegionBlock) -> Triplets:
        """Return the relations. The subject is the smaller box; of two equal ones the first."""
        pairs = measure_pairs(regions.boxes)
        own, other = pairs.area[:, :, None], pairs.area[:, None]
        smaller = (own < other) | ((own == other) & np.triu(np.ones(pairs.share.shape[1:], bool), 1))
        sideways = np.abs(pairs.right) >= np.abs(pairs.down)
        predicates = np.select(
            [
                pairs.share >= INSIDE,
                pairs.share >= _OVERLAPPING,
                sideways & (pairs.right >= 0),
                sideways,
                pairs.down >= 0,
            ],
            [0, 1, 2, 3, 4],
            5,
        )
        certain = np.minimum(regions.scores[:, :, None], regions.scores[:, None])
        scores = certain / (1 + pairs.distance)
        return select_triplets(
            np.where(mark_related_pairs(regions) & smaller, scores, 0.0), predicates, scores, self.top
        )
