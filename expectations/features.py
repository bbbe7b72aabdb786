"""Measure the features in one pass over the file, block by block.

16 GB of features become a norm, a count of non-finite numbers and a hash per region, and a signature of 160 numbers per
image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from hire_model.data.store import Dataset
from hire_model.progress import show_progress

BLOCK_BYTES = 8 << 20
PER_DIRECTION = 5
"""Numbers per direction in a signature: the mean feature, then its means weighted by x1, y1, x2 and y2."""
_DIRECTIONS = 32
_SEED = 20261123


@dataclass(frozen=True)
class Measures:
    """Measurements of the features.

    norms       [regions] float64, Euclidean norm of the finite numbers
    bad         [regions] int64, how many numbers are NaN or infinite
    hashes      [regions] int64, equal if all bytes of the features are equal
    signatures  [images, 160] float32, see `measure_features`
    """

    norms: np.ndarray
    bad: np.ndarray
    hashes: np.ndarray
    signatures: np.ndarray


def measure_features(data: Dataset, counts: np.ndarray) -> Measures:
    """Read the features once, in blocks of 8 MiB, and measure them. counts: [images] int64, regions per image.

    An image's signature is the mean over its regions of f ⊗ (1, x1, y1, x2, y2). f [32] is the region's feature in a
    fixed random projection, which approximately preserves distances (Johnson and Lindenstrauss, 1984); a missing box
    counts as 0. The signature does not depend on the order of the regions, but on where each one is: two scenes with
    the same objects in other positions differ. Expects a sound structure (`hire_model.data.verify`).
    """
    # A separate object, so that the boxes are freed at the end. `verify` has compared the digests.
    data = Dataset(data.folder, data.manifest)
    dim, total = data.features.shape[1], int(counts.sum())
    norms, bad, hashes = np.empty(total, np.float64), np.empty(total, np.int64), np.empty(total, np.int64)
    signatures = np.empty((len(counts), _DIRECTIONS * PER_DIRECTION), np.float32)
    random = torch.Generator().manual_seed(_SEED)
    projection = torch.randn(dim, _DIRECTIONS, generator=random) / _DIRECTIONS**0.5
    for images, rows in _split_into_blocks(counts, dim * data.features.dtype.itemsize):
        stored = data.read_features(rows.start, rows.stop - rows.start)
        hashes[rows] = hash_rows(stored)
        block = torch.from_numpy(stored).float()
        norm, bad[rows] = torch.linalg.vector_norm(block, dim=1), 0
        if not torch.isfinite(norm).all():  # checking each number is slow and only needed if a norm is not finite
            finite = torch.isfinite(block)
            bad[rows] = (~finite).sum(dim=1).numpy()
            norm = torch.linalg.vector_norm(block.masked_fill_(~finite, 0.0), dim=1)
        norms[rows] = norm.numpy()
        boxes = np.nan_to_num(data.boxes[rows], nan=0.0, posinf=0.0, neginf=0.0)
        weights = torch.from_numpy(np.concatenate([np.ones((len(boxes), 1), np.float32), boxes], axis=1))
        spread = ((block @ projection)[:, :, None] * weights[:, None]).flatten(1)
        starts = np.cumsum(counts[images]) - counts[images]
        signatures[images] = np.add.reduceat(spread.numpy(), starts, axis=0) / counts[images, None]
    return Measures(norms, bad, hashes, signatures)


def _split_into_blocks(counts: np.ndarray, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Yield (images, rows) of about BLOCK_BYTES each; an image is never split."""
    ends = np.cumsum(counts)
    edges = np.flatnonzero(np.diff(ends * row_bytes // BLOCK_BYTES)) + 1
    bounds = [0, *edges.tolist(), len(counts)]
    spans = list(pairwise(bounds))
    for first, last in show_progress(spans, "reading features", len(spans)):
        yield slice(first, last), slice(int(ends[first] - counts[first]), int(ends[last - 1]))


def hash_rows(rows: np.ndarray) -> np.ndarray:
    """Hash the bytes of each row of `rows` [n, F] to [n] int64. Comparable within one process: Python salts hashes."""
    return np.fromiter((hash(row.tobytes()) for row in rows), np.int64, len(rows))
