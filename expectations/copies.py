"""Which images of held-out splits have regions that were copied, bit for bit, from an image of another split."""

from __future__ import annotations

import numpy as np
import pandas as pd

FEW = 10
"""A feature vector that stands in more images than this, such as padding, tells nothing of a single one."""
CODEBOOK = 0.1
"""Where so many of the training split's vectors stand in several of its images, features come from a codebook."""
_LEAST = 3  # so many equal regions are no chance; an image of fewer must be equal in all


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """[n] int64, a hash of each row's bytes; rows [n, F]. Comparable within one process only: Python salts its hash."""
    return np.fromiter((hash(row.tobytes()) for row in rows), np.int64, len(rows))


def copied(hashes: np.ndarray, counts: np.ndarray, splits: np.ndarray, reference: str) -> tuple[np.ndarray, np.ndarray]:
    """For each image outside the split `reference`: from which image of another split most of its regions come.

    hashes [regions] int64 of `row_hashes`, counts [images] int64 regions per image, splits [images] str; gives rows
    [images] int64 (-1: none) and shares [images] float64, which part of the image's regions have the very features of
    regions of that image, boxes aside. Vectors in more than FEW images do not count, nor fewer than three of them. With
    features of a codebook, where the same vector means the same thing in many images, no share is given at all.
    """
    sources, shares = np.full(len(counts), -1, np.int64), np.zeros(len(counts))
    repeated, owners = _repeated(hashes), np.repeat(np.arange(len(counts)), counts)
    regions = pd.DataFrame({"vector": hashes[repeated], "image": owners[repeated]})
    stands = regions.drop_duplicates()  # a row for each vector and image
    if _is_codebook(stands, splits == reference, hashes[(splits == reference)[owners]]):
        return sources, shares
    images = stands.groupby("vector")["image"].transform("size")
    rare = stands[(images > 1) & (images <= FEW)]
    pairs = regions[splits[regions["image"]] != reference].merge(rare, on="vector", suffixes=("", "_of"))
    pairs = pairs[splits[pairs["image"]] != splits[pairs["image_of"]]]
    equal = pairs.groupby(["image", "image_of"]).size().reset_index(name="regions")
    equal = equal[equal["regions"] >= np.minimum(counts[equal["image"]], _LEAST)]
    best = equal.sort_values("regions", kind="stable").drop_duplicates("image", keep="last")
    sources[best["image"]] = best["image_of"]
    shares[best["image"]] = best["regions"] / counts[best["image"]]
    return sources, shares


def _repeated(hashes: np.ndarray) -> np.ndarray:
    """[regions] bool, which hashes stand more than once; by sorting, which takes 40 MB at COCO's size, and a second."""
    ordered = np.sort(hashes)
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(several):
        return np.zeros(len(hashes), bool)
    return several[np.minimum(np.searchsorted(several, hashes), len(several) - 1)] == hashes


def _is_codebook(stands: pd.DataFrame, own: np.ndarray, vectors: np.ndarray) -> bool:
    """Whether vectors of the reference split (own [images] bool) often stand in several of its images."""
    several = int((stands["vector"][own[stands["image"]]].value_counts() > 1).sum())
    ordered = np.sort(vectors)  # np.unique makes a hash table of millions of numbers
    return several > CODEBOOK * (1 + int(np.count_nonzero(ordered[1:] != ordered[:-1])))
