"""Make padded batches of stored rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from hire_model.batch import Regions, Tokens
from hire_model.data.store import ImageRegions, read_rows


def collate_regions(
    images: Sequence[ImageRegions], predicate_map: np.ndarray | None = None, class_map: np.ndarray | None = None
) -> Regions:
    """Pad the regions of B images to the largest number of regions.

    Args:
        images: the regions of each image.
        predicate_map: [predicates of the data set] int64, the index of each predicate in the vocabulary of the model,
            or -1 if the model has no such predicate; relations with -1 are removed. None if both use the same
            vocabulary.
        class_map: the same for classes; regions with -1 have no class.
    """
    longest, dim = max(len(image.features) for image in images), images[0].features.shape[1]
    shape = (len(images), longest)
    features, boxes = np.zeros((*shape, dim), np.float32), np.zeros((*shape, 4), np.float32)
    mask, boxed = np.zeros(shape, bool), np.zeros(shape, bool)
    classes = np.full(shape, -1, np.int64)
    edges, edge_scores = [], []
    for row, image in enumerate(images):
        count = len(image.features)
        features[row, :count] = image.features
        mask[row, :count] = True
        has_box = ~np.isnan(image.boxes).any(axis=1)
        boxed[row, :count] = has_box
        boxes[row, :count][has_box] = image.boxes[has_box]
        classes[row, :count] = renumber_classes(image.classes, class_map)
        relations, scores = renumber_predicates(image.relations, image.relation_scores, predicate_map)
        edges.append(np.concatenate([np.full((len(relations), 1), row), relations], axis=1))
        edge_scores.append(scores)
    return Regions(
        features=torch.from_numpy(features),
        boxes=torch.from_numpy(boxes),
        mask=torch.from_numpy(mask),
        boxed=torch.from_numpy(boxed),
        classes=torch.from_numpy(classes),
        relations=torch.from_numpy(np.concatenate(edges)),
        relation_scores=torch.from_numpy(np.concatenate(edge_scores).astype(np.float32)),
    )


def renumber_predicates(
    relations: np.ndarray, scores: np.ndarray, predicate_map: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return relations [e, 3] int64 with the predicate indices of the model, and their scores.

    Relations with a predicate that the model does not have are removed. `predicate_map` is that of `collate_regions`.
    """
    relations = relations.astype(np.int64)
    if predicate_map is None or not len(relations):
        return relations, scores
    relations[:, 1] = predicate_map[relations[:, 1]]
    known = relations[:, 1] >= 0
    return relations[known], scores[known]


def renumber_classes(classes: np.ndarray, class_map: np.ndarray | None) -> np.ndarray:
    """Return the ids [R] int64 of classes in the model; -1 for none. `class_map` is that of `collate_regions`."""
    classes = classes.astype(np.int64)
    if class_map is None:
        return classes
    known = (classes >= 0) & (classes < len(class_map))
    return np.where(known, class_map[np.where(known, classes, 0)], -1)


class CaptionBank:
    """The word pieces of all captions of a split, and optionally their states from a frozen encoder.

    ids      [all word pieces] int32, one caption after the other
    offsets  [captions + 1] int64, index in `ids` at which each caption begins
    states   [all word pieces, H] float16, memory-mapped, or None
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, states: np.memmap | None = None) -> None:
        self.ids, self.offsets, self.states = ids, offsets, states

    @classmethod
    def from_lists(cls, ids: Iterable[Sequence[int]]) -> CaptionBank:
        """Build a bank from lists of word piece ids. The lists themselves are not kept in memory."""
        flat, offsets = array("i"), array("q", [0])
        for caption in ids:
            flat.extend(caption)
            offsets.append(len(flat))
        return cls(np.array(flat, np.int32), np.array(offsets, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """[captions] int64, number of word pieces per caption."""
        return np.diff(self.offsets)

    def tokens(self, rows: Sequence[int] | np.ndarray) -> Tokens:
        """Return the captions `rows`, padded to the longest of them."""
        spans = [(int(self.offsets[row]), int(self.offsets[row + 1])) for row in rows]
        shape = (len(spans), max(end - start for start, end in spans))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, bool)
        states = None if self.states is None else np.zeros((*shape, self.states.shape[1]), np.float32)
        for row, (start, end) in enumerate(spans):
            ids[row, : end - start] = self.ids[start:end]
            mask[row, : end - start] = True
            if states is not None and self.states is not None:
                states[row, : end - start] = read_rows(self.states, start, end - start)
        return Tokens(
            torch.from_numpy(ids), torch.from_numpy(mask), None if states is None else torch.from_numpy(states)
        )
