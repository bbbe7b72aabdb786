"""What the suites need to know of the features: one pass over the file, block by block, leaves a few numbers a row.

16 GB of features become, per region, a norm, a count of bad numbers and a hash, and per image a signature of 160
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from hire_model.data.store import Dataset, read_rows
from hire_model.progress import show_progress

BLOCK_BYTES = 8 << 20
_DIRECTIONS = 32
_SEED = 20261123


@dataclass(frozen=True)
class Measures:
    """What one pass over the features leaves.

    norms       [regions] float64, Euclidean, of the finite numbers
    bad         [regions] int64, how many numbers are NaN or infinite
    hashes      [regions] int64, equal where all bytes of the features are
    signatures  [images, 160] float32, see `measure_features`
    """

    norms: np.ndarray
    bad: np.ndarray
    hashes: np.ndarray
    signatures: np.ndarray


def measure_features(data: Dataset, counts: np.ndarray) -> Measures:
    """Read the features once, in blocks of 8 MiB, and measure them. counts [images] int64: regions per image.

    An image's signature is the mean over its regions of f ⊗ (1, x1, y1, x2, y2), where f [32] is the region's feature
    in a fixed random projection, which keeps distances well (Johnson and Lindenstrauss, 1984), and the box is 0 where
    there is none. It does not depend on the order of the regions, but on which of them is where: two scenes of the
    same things in other places differ. Expects a sound structure (`hire_model.data.verify`).
    """
    data = Dataset(data.folder, data.manifest)  # one of our own, so that the boxes go when we are done
    dim, total = data.features.shape[1], int(counts.sum())
    norms, bad, hashes = np.empty(total, np.float64), np.empty(total, np.int64), np.empty(total, np.int64)
    signatures = np.empty((len(counts), _DIRECTIONS * 5), np.float32)
    random = torch.Generator().manual_seed(_SEED)
    projection = torch.randn(dim, _DIRECTIONS, generator=random) / _DIRECTIONS**0.5
    for images, rows in _split_into_blocks(counts, dim * data.features.dtype.itemsize):
        stored = read_rows(data.features, rows.start, rows.stop - rows.start)
        hashes[rows] = hash_rows(stored)
        block = torch.from_numpy(stored).float()
        norm, bad[rows] = torch.linalg.vector_norm(block, dim=1), 0
        if not torch.isfinite(norm).all():  # a NaN or an infinity shows there; each number is looked at only then
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
    """Images and their rows, whole images of about BLOCK_BYTES at a time."""
    ends = np.cumsum(counts)
    edges = np.flatnonzero(np.diff(ends * row_bytes // BLOCK_BYTES)) + 1
    bounds = [0, *edges.tolist(), len(counts)]
    spans = list(pairwise(bounds))
    for first, last in show_progress(spans, "reading features", len(spans)):
        yield slice(first, last), slice(int(ends[first] - counts[first]), int(ends[last - 1]))


def hash_rows(rows: np.ndarray) -> np.ndarray:
    """[n] int64, a hash of each row's bytes; rows [n, F]. Comparable within one process only: Python salts its hash."""
    return np.fromiter((hash(row.tobytes()) for row in rows), np.int64, len(rows))
