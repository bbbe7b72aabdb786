"""Fit a `RelationPrior` to counts of related and unrelated pairs of regions.

A probability of a rare case is smoothed with that of a more general one: p(predicate | classes, cell) with
p(predicate | classes) p(cell | predicate), and that with p(predicate | subject) p(predicate | object) / p(predicate).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hire_model.data.relations.geometry import CELLS, mark_related_pairs, measure_pairs, number_cells
from hire_model.data.relations.maker import PER_REGION, RegionBlock
from hire_model.data.relations.prior import PriorFacts, RelationPrior

FOLDS = 5
"""The relations of a training image come from a prior that was fitted without its fold."""
MOST_PREDICATES = 50
_SMOOTHING = 4.0  # examples that a more general case counts as
_LEAST = 1.0  # relations of two classes
_CHUNK = 4096  # pairs of classes at a time


class Evidence:
    """Counts of pairs of regions, and of relations between them, by classes and geometry.

    Args:
        classes: names of the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._ids: dict[str, int] = {}  # of predicates
        self._pairs: list[np.ndarray] = []  # rows (fold, subject, object, cell, count)
        self._relations: list[np.ndarray] = []  # rows (fold, subject, object, cell, predicate, weight)

    def add(
        self, regions: RegionBlock, rows: np.ndarray, predicates: Sequence[str], weights: np.ndarray, folds: np.ndarray
    ) -> int:
        """Add a block of images, and return the number of relations, which is the sum of their weights.

        Args:
            regions: their regions.
            rows: [m, 3] (image, subject, object) of relations. Those between regions without relations are ignored.
            predicates: m names.
            weights: [m], how much each relation counts.
            folds: [B] of the images.
        """
        cells, classes = number_cells(measure_pairs(regions.boxes)), regions.classes
        known = mark_related_pairs(regions) & (classes[:, :, None] >= 0) & (classes[:, None] >= 0)
        image, subject, object_ = np.nonzero(known)
        found = np.stack(
            [folds[image], classes[image, subject], classes[image, object_], cells[image, subject, object_]], axis=1
        )
        pairs, counts = np.unique(found, axis=0, return_counts=True)
        self._pairs.append(np.column_stack([pairs, counts]).astype(float))
        ids = np.array([self._ids.setdefault(name, len(self._ids)) for name in predicates], np.int64)
        image, subject, object_ = np.asarray(rows, np.int64).reshape(-1, 3).T
        columns = [folds[image], classes[image, subject], classes[image, object_], cells[image, subject, object_]]
        kept = known[image, subject, object_]
        self._relations.append(np.column_stack([*columns, ids, weights])[kept].astype(float))
        return round(float(weights[kept].sum()))

    def fit(self, source: str, top: int = PER_REGION, without: int = -1) -> RelationPrior:
        """Return the prior. `without` leaves out a fold; the names of its predicates stay the same.

        Without any relation, the prior relates nothing.
        """
        relations, pairs = np.concatenate(self._relations), np.concatenate(self._pairs)
        names = list(self._ids)
        totals = np.bincount(relations[:, 4].astype(int), relations[:, 5], len(names))
        frequent = np.argsort(-totals, kind="stable")[:MOST_PREDICATES]
        frequent = frequent[totals[frequent] > 0]
        new_ids = np.full(len(names) + 1, -1)
        new_ids[frequent] = np.arange(len(frequent))
        relations = relations[(relations[:, 0] != without) & (new_ids[relations[:, 4].astype(int)] >= 0)]
        relations[:, 4] = new_ids[relations[:, 4].astype(int)]
        facts = PriorFacts(
            source=source, top=top, classes=self.classes, predicates=tuple(names[i] for i in frequent.tolist())
        )
        return RelationPrior(facts, _fit(relations, pairs[pairs[:, 0] != without], facts))


def _fit(relations: np.ndarray, pairs: np.ndarray, facts: PriorFacts) -> dict[str, np.ndarray]:
    """Return the tables of a `RelationPrior`. `relations` and `pairs` are rows of `Evidence`."""
    classes, size = len(facts.classes), len(facts.predicates)
    _, subject, object_, cell, predicate = relations[:, :5].astype(np.int64).T
    weight = relations[:, 5]
    keys = subject * classes + object_
    unique, inverse = np.unique(keys, return_inverse=True)
    unique = unique[np.bincount(inverse, weight, len(unique)) >= _LEAST]
    overall = np.bincount(predicate, weight, size) / max(weight.sum(), 1e-12)
    by_subject = _smooth(_sum((classes, size), (subject, predicate), weight), overall)
    by_object = _smooth(_sum((classes, size), (object_, predicate), weight), overall)
    of_cell = _smooth(_sum((size, CELLS), (predicate, cell), weight), np.full(CELLS, 1 / CELLS)).T  # [cells, size]
    pair_keys = pairs[:, 1].astype(np.int64) * classes + pairs[:, 2].astype(np.int64)
    parts = []
    for start in range(0, len(unique), _CHUNK):
        chunk = unique[start : start + _CHUNK]
        counts = _sum_chunk(chunk, keys, (cell, predicate), weight, (CELLS, size))
        seen = _sum_chunk(chunk, pair_keys, (pairs[:, 3].astype(np.int64),), pairs[:, 4], (CELLS,))
        general = _normalize(by_subject[chunk // classes] * by_object[chunk % classes] / np.maximum(overall, 1e-12))
        general = _smooth(counts.sum(axis=1), general)
        probability = _smooth(counts, _normalize(general[:, None] * of_cell))
        rates = _rate_pairs(counts.sum(axis=2), seen, weight.sum() / max(pairs[:, 4].sum(), 1))
        parts.append((probability.argmax(axis=2), probability.max(axis=2), rates))
    empty = np.zeros((0, CELLS))
    columns = (np.concatenate([empty, *column]) for column in zip(*parts, strict=True)) if parts else (empty,) * 3
    tables = dict(zip(("predicate", "score", "related"), columns, strict=True))
    return {"pairs": np.stack([unique // classes, unique % classes], axis=1), **tables}


def _rate_pairs(related: np.ndarray, seen: np.ndarray, average: float) -> np.ndarray:
    """Return relations per pair of regions [n, cells]; 0 where they are fewer than on average."""
    general = (related.sum(axis=1) + _SMOOTHING * average) / (seen.sum(axis=1) + _SMOOTHING)
    rates = (related + _SMOOTHING * general[:, None]) / (seen + _SMOOTHING)
    return np.where(rates >= average, rates, 0)


def _sum(shape: tuple[int, ...], places: tuple[np.ndarray, ...], weights: np.ndarray) -> np.ndarray:
    """Return an array with the sum of the weights at each place."""
    flat = np.ravel_multi_index(places, shape)
    return np.bincount(flat, weights, int(np.prod(shape))).reshape(shape)


def _sum_chunk(
    chunk: np.ndarray, keys: np.ndarray, places: tuple[np.ndarray, ...], weights: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return [chunk, *shape], the sum of the weights of the rows whose key is in the sorted `chunk`."""
    rows = np.minimum(np.searchsorted(chunk, keys), len(chunk) - 1)
    kept = chunk[rows] == keys
    return _sum((len(chunk), *shape), (rows[kept], *(place[kept] for place in places)), weights[kept])


def _smooth(counts: np.ndarray, general: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis: the counts and `_SMOOTHING` further examples spread as `general`."""
    return (counts + _SMOOTHING * general) / (counts.sum(axis=-1, keepdims=True) + _SMOOTHING)


def _normalize(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(values.sum(axis=-1, keepdims=True), 1e-12)
