"""The interface of relation makers: boxes, classes and sizes of a block of images become scored triplets.

To add one, write a class with the members of `RelationMaker`, and add its `kind` to `recorded.KINDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import JsonValue

PER_REGION = 2
"""Default number of relations in which a region is the subject."""
_WHOLE = 0.95  # a box with this share of the image or more is the image itself


@dataclass(frozen=True)
class RegionBlock:
    """The regions of B images, padded to R.

    boxes    [B, R, 4] float64 x1 y1 x2 y2 in pixels, or in any unit that is the same for both axes; zero where
             `related` is False
    classes  [B, R] int64, -1 unknown
    scores   [B, R] float64 in 0-1; 1 if unknown
    related  [B, R] bool, the regions that can have relations
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    related: np.ndarray


@dataclass(frozen=True)
class Triplets:
    """Relations of a block of images, by image and then from the highest score down.

    rows    [E, 4] int64: image within the block, subject, predicate, object
    scores  [E] float32 in 0-1
    """

    rows: np.ndarray
    scores: np.ndarray

    def select(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the relations [e, 3] int32 of one image and their scores [e]."""
        chosen = self.rows[:, 0] == image
        return self.rows[chosen, 1:].astype(np.int32), self.scores[chosen]


class RelationMaker(Protocol):
    """What makes the relations of images.

    kind        name in `recorded.KINDS`, which opens the same maker again
    name        method, for people
    digest      SHA-256 of all that changes the result; relations of two digests are never mixed
    options     what `recorded.KINDS` needs besides the file
    weights     content of relation_prior.safetensors, or None
    predicates  names of the predicate numbers
    classes     names of the class numbers that it expects; None: any
    """

    kind: str
    name: str
    digest: str
    options: dict[str, JsonValue]
    weights: bytes | None
    predicates: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...] | None:  # noqa: D102 - see the class
        ...

    def relate(self, regions: RegionBlock) -> Triplets:
        """Return the relations of the images."""
        ...


def make_block(images: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], sizes: np.ndarray) -> RegionBlock:
    """Pad the regions of images.

    A region has no relations if it has no box, if its box is the whole image, or if it has no class although others of
    the image have one, such as the cells of a grid that fill up a detector's regions.

    Args:
        images: of each image boxes [r, 4] as fractions, NaN for none; classes [r], -1 unknown; scores [r], NaN unknown.
        sizes: [B, 2] width and height in pixels; 0 unknown, which is taken for a square.
    """
    shape = len(images), max(len(boxes) for boxes, _, _ in images)
    boxes, classes = np.full((*shape, 4), np.nan), np.full(shape, -1, np.int64)
    scores = np.ones(shape)
    for row, (box, ids, confidence) in enumerate(images):
        boxes[row, : len(box)], classes[row, : len(box)] = box, ids
        scores[row, : len(box)] = np.nan_to_num(confidence, nan=1.0)
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    related = (areas > 0) & (areas < _WHOLE)  # False for NaN
    named = (classes >= 0).any(axis=1, keepdims=True)
    related &= (classes >= 0) | ~named
    known = (sizes > 0).all(axis=1, keepdims=True)
    pixels = np.where(known, sizes, 1)[:, None, [0, 1, 0, 1]]
    return RegionBlock(np.where(related[..., None], boxes * pixels, 0.0), classes, scores, related)


def select_triplets(strength: np.ndarray, predicates: np.ndarray, scores: np.ndarray, top: int) -> Triplets:
    """Return at most `top` relations per subject, the strongest ones, and at most one per pair of regions.

    Args:
        strength: [B, R, R] of the relation of subject i to object j; 0 for none. Ties go to the lower region.
        predicates: [B, R, R] predicate of each pair.
        scores: [B, R, R] score of each pair.
        top: relations in which a region is the subject.
    """
    upper = np.triu(np.ones(strength.shape[1:], bool), 1)
    mirrored = strength.transpose(0, 2, 1)
    kept = (strength > 0) & ((strength > mirrored) | ((strength == mirrored) & upper))
    order = np.argsort(np.where(kept, -strength, 0.0), axis=2, kind="stable")[..., :top]
    image, subject, _ = (axis.ravel() for axis in np.indices(order.shape))
    place = image, subject, order.ravel()
    rows = np.stack([image, subject, predicates[place], place[2]], axis=1)[kept[place]]
    values = scores[place][kept[place]].astype(np.float32)
    ranked = np.lexsort((-values, rows[:, 0]))  # stable
    return Triplets(rows[ranked], values[ranked])
