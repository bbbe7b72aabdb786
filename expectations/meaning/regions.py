"""Compare the features of regions with classes and boxes, and boxes with what is usual in pictures."""

from __future__ import annotations

import re

import numpy as np

from expectations.meaning.maps import Agreement, Pairings, measure_agreement
from expectations.meaning.sample import Sample
from hire_model.data.store import Dataset

_MAX_CLASSES, _MIN_REGIONS = 100, 5  # most frequent classes, and regions of each
_MIN_CLASSES = 5  # ranks of fewer, unequally frequent classes are low without a fault
_MIN_PEOPLE = 50
_UPRIGHT = re.compile(r"^(person|man|woman|boy|girl|child|kid|lady|guy|player)s?$|^(men|women|children|people)$")
SHIFTS = (-1, 1)
EXCHANGES = ("x and y", "width and height")


def compare_classes(data: Dataset, sample: Sample, reference: str) -> tuple[np.ndarray, Agreement] | None:
    """Predict the class of a region from its feature; return the rows of `sample.regions` that were used, too.

    The alternatives are the classes of the regions before and after. None with fewer than five frequent classes.
    """
    classes = data.classes
    own = classes[sample.regions]
    known = (sample.splits == reference)[sample.owners] & (own >= 0)
    totals = np.bincount(own[known], minlength=1)
    frequent = np.argsort(-totals, kind="stable")[:_MAX_CLASSES]
    frequent = frequent[totals[frequent] >= _MIN_REGIONS]
    if len(frequent) < _MIN_CLASSES:
        return None
    used = np.flatnonzero(np.isin(own, frequent))
    rows = sample.regions[used]
    neighbours = [classes[(rows + shift) % len(classes)] for shift in SHIFTS]
    targets = [(each[:, None] == frequent).astype(np.float32) for each in (own[used], *neighbours)]
    owners = sample.owners[used]
    pairs = Pairings(sample.vectors[used], targets, owners, sample.splits[owners])
    return used, measure_agreement(pairs, reference, refit=True)


def compare_boxes(boxes: np.ndarray, sample: Sample, reference: str) -> tuple[np.ndarray, Agreement] | None:
    """Predict place and size of a box from the feature; return the rows of `sample.regions` that were used, too.

    The alternatives are the box with x and y, and with width and height exchanged. None if all boxes are equal.
    boxes: [m, 4] of the sampled regions.
    """
    used = np.flatnonzero(is_box(boxes))
    place = describe_boxes(boxes[used])
    if not len(used) or not (place.std(axis=0) > 1e-4).all():
        return None
    owners = sample.owners[used]
    targets = [place, place[:, [1, 0, 3, 2]], place[:, [0, 1, 3, 2]]]
    pairs = Pairings(sample.vectors[used], targets, owners, sample.splits[owners])
    return used, measure_agreement(pairs, reference)


def is_box(boxes: np.ndarray) -> np.ndarray:
    """Return [m] bool, which boxes [m, 4] are complete and have an area."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def describe_boxes(boxes: np.ndarray) -> np.ndarray:
    """Return [m, 4] float32: centre in x and y, logarithm of width and height."""
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, np.log(size)], axis=1).astype(np.float32)


def compare_sides(boxes: np.ndarray, classes: np.ndarray) -> float:
    """Return how much more the class of a region says about x than about y, as a difference of correlations.

    Photographs can be mirrored but not turned: the sky is above, so classes differ in y. NaN if the classes or boxes
    are too few. boxes: [m, 4], classes: [m].
    """
    used = is_box(boxes) & (classes >= 0)
    numbers, members = np.unique(classes[used], return_inverse=True)
    counts = np.bincount(members, minlength=1)
    if len(numbers) < 2 or np.count_nonzero(used) < 20 * len(numbers) or not (counts >= 20).any():
        return float("nan")
    centres = describe_boxes(boxes[used])[:, :2].astype(np.float64)
    shares = []
    for axis in (0, 1):
        means = np.bincount(members, centres[:, axis]) / counts
        shares.append(float(means[members].std()) / max(float(centres[:, axis].std()), 1e-9))
    return shares[0] - shares[1]


def find_upright(boxes: np.ndarray, classes: np.ndarray, sizes: np.ndarray, names: tuple[str, ...]) -> float:
    """Return the share of people's boxes that are higher than wide in pixels. NaN if there are fewer than 50 people.

    boxes: [m, 4], classes: [m], sizes: [m, 2] width and height of the image, names: of the classes.
    """
    people = [k for k, name in enumerate(names) if _UPRIGHT.match(name.lower())]
    used = is_box(boxes) & np.isin(classes, people) & (sizes > 0).all(axis=1)
    if np.count_nonzero(used) < _MIN_PEOPLE:
        return float("nan")
    pixels = (boxes[used, 2:] - boxes[used, :2]) * sizes[used]
    return float((pixels[:, 1] > pixels[:, 0]).mean())


def find_equal_boxes(boxes: np.ndarray, owners: np.ndarray, images: int) -> np.ndarray:
    """Return [images] float64: 1 if all boxes of an image are equal, else 0; NaN with fewer than two boxes."""
    used = np.flatnonzero(is_box(boxes))
    result, counts = np.full(images, np.nan), np.bincount(owners[used], minlength=images)
    several = counts >= 2
    result[several] = 0.0
    ends = np.cumsum(counts)
    for image in np.flatnonzero(several):
        rows = used[ends[image] - counts[image] : ends[image]]
        result[image] = float((boxes[rows] == boxes[rows[0]]).all())
    return result
