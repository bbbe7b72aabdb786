"""Draw a sample of each split and read its features, so that the cost does not grow with the data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hire_model.data.store import Dataset, all_finite
from hire_model.progress import show_progress

IMAGES_PER_SPLIT = 2000
PART_SIZE, MAX_PARTS = 200, 8
"""Sampled images per part, and parts per split. A part is a run of images, so that messages can name the rows."""
REGIONS_PER_IMAGE = 4
MAX_WIDTH = 512
"""Wider features are projected on this many random directions, which approximately preserves distances."""
_SEED = 20261128


@dataclass(frozen=True)
class SplitValues:
    """Per feature dimension [F], over the sampled regions of one split: moments, range, share of non-zero numbers."""

    regions: int
    mean: np.ndarray
    deviation: np.ndarray
    constant: np.ndarray
    non_zero: np.ndarray


@dataclass(frozen=True)
class Sample:
    """A sample of n images and m of their regions, in the order of the file.

    images    [n] int64, rows of the images table
    splits    [n] str
    parts     [n] int64, number of the part; a part lies in one split
    pooled    [n, P] float32, mean feature of the image's regions
    norms     [n] float64, mean norm of the image's regions
    regions   [m] int64, rows of the regions table
    owners    [m] int64, index into `images`
    vectors   [m, P] float32, features of the regions
    values    by split
    """

    images: np.ndarray
    splits: np.ndarray
    parts: np.ndarray
    pooled: np.ndarray
    norms: np.ndarray
    regions: np.ndarray
    owners: np.ndarray
    vectors: np.ndarray
    values: dict[str, SplitValues]


def read_sample(data: Dataset, splits: np.ndarray, counts: np.ndarray) -> Sample:
    """Draw up to IMAGES_PER_SPLIT images of each split with a fixed seed and read their features.

    Args:
        data: The data set. Digests of blocks are not compared again.
        splits: [images] str, the split of each image.
        counts: [images] int64, regions per image.
    """
    data = Dataset(data.folder, data.manifest)
    random = np.random.default_rng(_SEED)
    images, parts = draw_images(splits, random)
    starts = np.cumsum(counts) - counts
    width = data.features.shape[1]
    projection = None
    if width > MAX_WIDTH:
        projection = random.standard_normal((width, MAX_WIDTH), np.float32) / np.float32(MAX_WIDTH**0.5)
    names = splits[images]
    totals = {name: _Totals(width) for name in dict.fromkeys(names.tolist())}
    pooled = np.empty((len(images), min(width, MAX_WIDTH)), np.float32)
    norms, rows, vectors = np.empty(len(images)), [], []
    for index, image in enumerate(show_progress(images.tolist(), "reading a sample of the features", len(images))):
        block = data.read_features(int(starts[image]), int(counts[image]))
        if not all_finite(block):
            block = np.nan_to_num(block, posinf=0.0, neginf=0.0)
        block = block.astype(np.float32)
        totals[names[index]].add(block)
        norms[index] = np.linalg.norm(block, axis=1).mean()
        chosen = np.sort(random.permutation(len(block))[:REGIONS_PER_IMAGE])
        kept = np.concatenate([block.mean(axis=0, keepdims=True), block[chosen]])
        kept = kept if projection is None else kept @ projection
        pooled[index] = kept[0]
        rows.append(starts[image] + chosen)
        vectors.append(kept[1:])
    owners = np.repeat(np.arange(len(images)), [len(each) for each in rows])
    values = {name: total.summarise() for name, total in totals.items()}
    regions = np.concatenate(rows) if rows else np.empty(0, np.int64)
    stacked = np.concatenate(vectors) if vectors else np.empty((0, pooled.shape[1]), np.float32)
    return Sample(images, names, parts, pooled, norms, regions, owners, stacked, values)


def draw_images(splits: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return rows [n] of the sampled images, split by split, and the number [n] of the part of each."""
    images, parts, first = [], [], 0
    for name in dict.fromkeys(splits.tolist()):
        rows = np.flatnonzero(splits == name)
        rows = np.sort(random.permutation(rows)[:IMAGES_PER_SPLIT])
        number = min(max(len(rows) // PART_SIZE, 1), MAX_PARTS)
        images.append(rows)
        parts.append(first + np.arange(len(rows)) * number // len(rows))
        first += number
    return np.concatenate(images), np.concatenate(parts)


class _Totals:
    """Sums over the regions of a split, per dimension."""

    def __init__(self, width: int) -> None:
        self.count, self.sums, self.squares = 0, np.zeros(width), np.zeros(width)
        self.low, self.high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        self.non_zero = np.zeros(width)

    def add(self, block: np.ndarray) -> None:
        """Add the features [r, F] of an image."""
        self.count += len(block)
        self.sums += block.sum(axis=0)
        self.squares += np.einsum("rf,rf->f", block, block)
        self.non_zero += np.count_nonzero(block, axis=0)
        np.minimum(self.low, block.min(axis=0), out=self.low)
        np.maximum(self.high, block.max(axis=0), out=self.high)

    def summarise(self) -> SplitValues:
        """Return mean, deviation, constant dimensions and shares of non-zero numbers."""
        mean = self.sums / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0.0))
        return SplitValues(self.count, mean, deviation, self.low == self.high, self.non_zero / self.count)
