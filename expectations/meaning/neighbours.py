"""Compare the pooled features of each sampled image with the most similar image: sign and length must agree."""

from __future__ import annotations

import numpy as np

from expectations.meaning.sample import Sample

MIN_IMAGES = 100
"""Images of the reference split that a comparison needs."""
_FACTOR = 3.0
_MIN_WIDTH, _MIN_COSINE = 64, 0.3  # below these, as in random features, the most similar image says nothing


def compare_neighbours(sample: Sample, reference: str) -> tuple[np.ndarray, np.ndarray]:
    """Compare each image with the most similar image of the reference split, regardless of sign and length.

    Returns:
        opposite [n] and rescaled [n] float64: 1 if that image's features have the opposite sign, or a norm that differs
        by more than a factor of three, else 0. NaN if the reference split is too small, or no image is similar.
    """
    import faiss

    known = np.flatnonzero(sample.splits == reference)
    if len(known) < MIN_IMAGES or sample.pooled.shape[1] < _MIN_WIDTH:
        return np.full(len(sample.images), np.nan), np.full(len(sample.images), np.nan)
    lengths = np.linalg.norm(sample.pooled, axis=1, keepdims=True)
    units = sample.pooled / np.maximum(lengths, 1e-9)
    best, nearest = _find_nearest(faiss, units, units[known], known, np.arange(len(units)))
    against, farthest = _find_nearest(faiss, -units, units[known], known, np.arange(len(units)))
    opposite = against > best
    ratio = np.log(
        np.maximum(sample.norms, 1e-9) / np.maximum(sample.norms[np.where(opposite, farthest, nearest)], 1e-9)
    )
    similar = np.maximum(best, against) > _MIN_COSINE
    rescaled = np.abs(ratio) > np.log(_FACTOR)
    return np.where(similar, opposite, np.nan), np.where(similar, rescaled, np.nan)


def _find_nearest(
    faiss: object, queries: np.ndarray, units: np.ndarray, known: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and row of the most similar other image of each query."""
    cosines, found = faiss.knn(queries, units, 2, metric=faiss.METRIC_INNER_PRODUCT)  # type: ignore[attr-defined]
    second = known[found[:, 0]] == rows
    column = second.astype(int)
    return cosines[np.arange(len(rows)), column], known[found[np.arange(len(rows)), column]]
