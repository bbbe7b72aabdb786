"""Compare predicates with the boxes and classes of subject and object, and with what their names say."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from expectations.meaning.maps import Agreement, Pairings, measure_agreement
from expectations.meaning.regions import is_box
from expectations.meaning.sample import Sample
from hire_model.data.boxes import describe_pairs
from hire_model.data.store import Dataset

MAX_RELATIONS = 6000  # per split
_CLASSES, _MIN_RELATIONS, _MIN_PREDICATES = 60, 5, 3
_MIN_NAMED, _MIN_SHARE = 30, 0.5  # relations of a predicate, and the share of them that must fit its name
_SEED = 20261130
_LARGER = re.compile(r"\b(wears?|wearing|holds?|holding|carr(y|ies|ying))\b")
_ABOVE = re.compile(r"\b(above|rides?|riding|(sit|stand)(s|ting|ing)? on)\b")
_BELOW = re.compile(r"\b(under|below|beneath|underneath)\b")


@dataclass(frozen=True)
class Relations:
    """Sampled relations between regions with boxes.

    images    [k] int64, index into the sample's images
    subjects  [k] int64, rows of the regions table
    objects   [k] int64
    labels    [k] int64, predicates
    """

    images: np.ndarray
    subjects: np.ndarray
    objects: np.ndarray
    labels: np.ndarray


def draw_relations(data: Dataset, sample: Sample, starts: np.ndarray, counts: np.ndarray) -> Relations:
    """Return relations of the sampled images, at most MAX_RELATIONS per split. counts: [images] relations per image."""
    firsts = np.cumsum(counts) - counts
    sizes = counts[sample.images]
    images = np.repeat(np.arange(len(sample.images)), sizes)
    rows = np.repeat(firsts[sample.images] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(images))
    random, chosen = np.random.default_rng(_SEED), []
    for name in dict.fromkeys(sample.splits.tolist()):
        members = np.flatnonzero(sample.splits[images] == name)
        chosen.append(np.sort(random.permutation(members)[:MAX_RELATIONS]))
    kept = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    images, triples = images[kept], data.relations[rows[kept]].astype(np.int64)
    first = starts[sample.images[images]]
    subjects, objects = first + triples[:, 0], first + triples[:, 2]
    inside = (np.minimum(subjects, objects) >= 0) & (np.maximum(subjects, objects) < len(data.classes))
    inside &= (triples[:, 1] >= 0) & (triples[:, 1] < len(data.manifest.predicates))
    inside[inside] &= is_box(data.boxes[subjects[inside]]) & is_box(data.boxes[objects[inside]])
    return Relations(images[inside], subjects[inside], objects[inside], triples[inside, 1])


def compare_predicates(
    data: Dataset, relations: Relations, sample: Sample, reference: str
) -> tuple[np.ndarray, Agreement] | None:
    """Predict the predicate from boxes and classes; return the relations that were used, too.

    The alternative exchanges subject and object. None with fewer than three frequent predicates.
    """
    splits = sample.splits[relations.images]
    known = relations.labels[splits == reference]
    frequent = np.flatnonzero(np.bincount(known, minlength=1) >= _MIN_RELATIONS)
    if len(frequent) < _MIN_PREDICATES:
        return None
    used = np.flatnonzero(np.isin(relations.labels, frequent))
    ends = relations.subjects[used], relations.objects[used]
    classes = data.classes[np.concatenate(ends)]
    common = np.argsort(-np.bincount(classes[classes >= 0], minlength=1), kind="stable")[:_CLASSES]
    target = (relations.labels[used][:, None] == frequent).astype(np.float32)
    pairs = Pairings(
        _describe(data, *ends, common),
        [target],
        relations.images[used],
        splits[used],
        exchanged=_describe(data, *ends[::-1], common),
    )
    return used, measure_agreement(pairs, reference)


def _describe(data: Dataset, subjects: np.ndarray, objects: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return [k, 12 + 2 * classes] float32: geometry of the two boxes, class of subject and object."""
    boxes = torch.from_numpy(np.stack([data.boxes[subjects], data.boxes[objects]], axis=1))
    geometry = describe_pairs(boxes)[:, 0, 1].numpy()
    ends = [(data.classes[rows][:, None] == common).astype(np.float32) for rows in (subjects, objects)]
    return np.concatenate([geometry, *ends], axis=1)


def find_contradiction(data: Dataset, relations: Relations, rows: np.ndarray) -> str | None:
    """Return the predicate whose name contradicts the boxes of most of its relations, with its share; or None.

    A subject is larger than what it wears, holds or carries, and above what it rides, sits or stands on. A predicate is
    considered if it occurs 30 times. rows: [k] bool, relations to consider.
    """
    subjects, objects = data.boxes[relations.subjects[rows]], data.boxes[relations.objects[rows]]
    labels = relations.labels[rows]
    larger = _measure_area(subjects) > _measure_area(objects)
    above = subjects[:, [1, 3]].sum(axis=1) < objects[:, [1, 3]].sum(axis=1)
    rules = ((_LARGER, larger), (_ABOVE, above), (_BELOW, ~above))
    lowest, contradiction = _MIN_SHARE, None
    for number, name in enumerate(data.manifest.predicates):
        fits = next((fits for rule, fits in rules if rule.search(name.lower())), None)
        members = labels == number
        if fits is not None and np.count_nonzero(members) >= _MIN_NAMED and fits[members].mean() < lowest:
            lowest = float(fits[members].mean())
            contradiction = f"'{name}' fits {lowest:.0%} of {np.count_nonzero(members):,} relations"
    return contradiction


def _measure_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
