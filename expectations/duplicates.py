"""Images that are in two splits: the nearest image of another split, and regions copied from another split."""

from __future__ import annotations

import numpy as np
import pandas as pd

MAX_OWNERS = 10
"""A feature vector that stands in more images than this, such as padding, tells nothing of a single one."""
CODEBOOK_SHARE = 0.1
"""Where so many of the training split's vectors stand in several of its images, features come from a codebook."""
_MIN_EQUAL = 3  # so many equal regions are no chance; an image of fewer must be equal in all


def find_nearest(signatures: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image the nearest one of another split: its row, and how far it is relative to the longer signature.

    signatures [N, D] float32, splits [N] str; gives rows [N] int64 (-1) and distances [N] float64 (inf), where the
    defaults stand for a data set of one split. Of two splits the smaller one asks the larger, and both ends of a pair
    know of it. Exact search in blocks: 10,000 against 113,000 images take some ten seconds on two cores.
    """
    import faiss

    rows, distances = np.full(len(splits), -1, np.int64), np.full(len(splits), np.inf)
    members = sorted((np.flatnonzero(splits == name) for name in set(splits.tolist())), key=len)
    lengths = np.linalg.norm(signatures, axis=1).astype(np.float64)
    for number, asking in enumerate(members):
        for asked in members[number + 1 :]:
            _, found = faiss.knn(signatures[asking], signatures[asked], 1)
            other = asked[found[:, 0]]
            apart = np.linalg.norm(signatures[asking].astype(np.float64) - signatures[other], axis=1)
            apart /= np.maximum(np.maximum(lengths[asking], lengths[other]), 1e-12)
            for here, there in ((asking, other), (other, asking)):
                order = np.argsort(-apart, kind="stable")  # the nearest of several is written last
                near = order[apart[order] < distances[here[order]]]
                distances[here[near]], rows[here[near]] = apart[near], there[near]
    return rows, distances


def find_copies(
    hashes: np.ndarray, counts: np.ndarray, splits: np.ndarray, reference: str
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each image outside the split `reference` the image of another split that most of its regions come from.

    hashes [regions] int64 of `hash_rows`, counts [images] int64 regions per image, splits [images] str. Returns rows
    [images] int64 (-1: none) and shares [images] float64: the part of the image's regions whose features are equal to
    those of regions of that image; boxes are not compared. Vectors in more than MAX_OWNERS images do not count, nor
    fewer than three of them. With features from a codebook, where one vector is in many images, all shares are 0.
    """
    sources, shares = np.full(len(counts), -1, np.int64), np.zeros(len(counts))
    repeated, owners = _find_repeated(hashes), np.repeat(np.arange(len(counts)), counts)
    regions = pd.DataFrame({"vector": hashes[repeated], "image": owners[repeated]})
    stands = regions.drop_duplicates()  # a row for each vector and image
    if _is_codebook(stands, splits == reference, hashes[(splits == reference)[owners]]):
        return sources, shares
    images = stands.groupby("vector")["image"].transform("size")
    rare = stands[(images > 1) & (images <= MAX_OWNERS)]
    pairs = regions[splits[regions["image"]] != reference].merge(rare, on="vector", suffixes=("", "_of"))
    pairs = pairs[splits[pairs["image"]] != splits[pairs["image_of"]]]
    equal = pairs.groupby(["image", "image_of"]).size().reset_index(name="regions")
    equal = equal[equal["regions"] >= np.minimum(counts[equal["image"]], _MIN_EQUAL)]
    best = equal.sort_values("regions", kind="stable").drop_duplicates("image", keep="last")
    sources[best["image"]] = best["image_of"]
    shares[best["image"]] = best["regions"] / counts[best["image"]]
    return sources, shares


def _find_repeated(hashes: np.ndarray) -> np.ndarray:
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
    return several > CODEBOOK_SHARE * (1 + int(np.count_nonzero(ordered[1:] != ordered[:-1])))
