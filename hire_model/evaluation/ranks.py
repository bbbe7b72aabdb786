"""Compute the rank of the best relevant item in both directions, from a similarity matrix read block by block."""

from __future__ import annotations

import numpy as np

from hire_model.errors import HireError

NO_QUERY = 0
"""The i2t rank of an image without a caption, which is not a query but still part of the gallery of t2i."""

_BLOCK_CELLS = 1 << 24


def rank_matrix(similarity: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the 1-based rank of each query's best relevant item; ties count against the query.

    A rank is one plus the number of irrelevant items whose score is equal to or higher than that of the best relevant
    item. A constant scorer therefore gets the last rank. Needs about 50 MB in addition to the matrix.

    Args:
        similarity: [N, M] real numbers, rows images, columns captions, higher is better; may be a memory map.
        owner: [M] integers, row of each caption's image; an image can have any number of captions, including none.

    Returns:
        i2t [N] int64 (NO_QUERY for an image without a caption) and t2i [M] int64.

    Raises:
        HireError: The shapes are wrong, or the matrix contains a NaN; the message names the cell.
    """
    owner = _check_owner(similarity, owner)
    images, captions = similarity.shape
    target = np.asarray(similarity[owner, np.arange(captions)])
    best = np.full(images, -np.inf, np.result_type(target.dtype, np.float16))
    with np.errstate(invalid="ignore"):  # NaN is refused below
        np.maximum.at(best, owner, target)
    above_caption = np.zeros(captions, np.int64)
    above_image = np.zeros(images, np.int64)
    step = max(1, _BLOCK_CELLS // captions)
    for start in range(0, images, step):
        block = np.asarray(similarity[start : start + step])
        _refuse_nan(block, start)
        above_caption += (block >= target).sum(axis=0)
        above_image[start : start + step] = (block >= best[start : start + step, None]).sum(axis=1)
    relevant = np.bincount(owner[target == best[owner]], minlength=images)
    i2t = np.where(relevant > 0, 1 + above_image - relevant, NO_QUERY)
    return i2t, above_caption  # already one-based, as the comparison with itself counts once


def compute_recall(ranks: np.ndarray, k: int) -> float:
    """Compute the share of queries (0-100) whose rank is at most `k`; images without a caption are ignored."""
    return 100.0 * float((ranks[ranks != NO_QUERY] <= k).mean())


def compute_chance_recall(owner: np.ndarray, images: int, ks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the expected R@K (0-100) of a random order: (i2t [K], t2i [K]).

    t2i has one relevant item of N: K / N. i2t has c of M: 1 - C(M-c, K) / C(M, K), averaged over images with captions.
    """
    ks = np.asarray(ks, np.int64)
    counts, captions = np.bincount(owner, minlength=images), len(owner)
    sizes, weights = np.unique(counts[counts > 0], return_counts=True)
    # C(M-c, K) / C(M, K) is the product over t < K of (M-c-t) / (M-t)
    draws = np.arange(min(int(ks.max()), captions))
    missed = np.cumprod(np.maximum(captions - sizes[:, None] - draws, 0) / (captions - draws), axis=1)
    i2t = 1 - np.average(missed[:, np.minimum(ks, captions) - 1], axis=0, weights=weights)
    return 100 * i2t, 100 * np.minimum(ks / images, 1.0)


def _check_owner(similarity: np.ndarray, owner: np.ndarray) -> np.ndarray:
    owner = np.asarray(owner)
    if similarity.ndim != 2 or not similarity.size:
        raise HireError(f"The similarity matrix has shape {similarity.shape}: expected [images, captions], neither 0.")
    images, captions = similarity.shape
    if owner.shape != (captions,) or owner.dtype.kind not in "iu":
        hint = " The matrix looks transposed: rows must be images." if owner.shape == (images,) else ""
        raise HireError(
            f"The caption-to-image map has shape {owner.shape} and type {owner.dtype}, the matrix has shape "
            f"{similarity.shape}: expected one integer for each of the {captions} captions.{hint}"
        )
    owner = owner.astype(np.int64)
    outside = np.flatnonzero((owner < 0) | (owner >= images))
    if len(outside):
        caption = int(outside[0])
        raise HireError(
            f"Caption {caption} belongs to image {owner[caption]}, but the matrix has images 0-{images - 1}."
        )
    return owner


def _refuse_nan(block: np.ndarray, start: int) -> None:
    nan = np.isnan(block)
    if nan.any():
        row, column = (int(i) for i in np.argwhere(nan)[0])
        raise HireError(
            f"The similarity of image {start + row} and caption {column} is NaN ({int(nan.sum())} in this block of "
            f"{len(block)} images), so no recall can be computed. Look for NaN in the features or the weights."
        )
