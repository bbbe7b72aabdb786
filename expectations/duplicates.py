"""Find images that occur twice: the nearest image of another split, copied regions, and nearly equal features."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hire_model.data.store import Dataset

MAX_OWNERS = 10
"""A feature vector that occurs in more images than this, such as padding, is ignored when copies are searched."""
CODEBOOK_SHARE = 0.1
"""Features count as taken from a codebook if more than this share of the training vectors occurs in several images."""
_CANDIDATES, _CANDIDATE_DISTANCE = 2000, 0.1  # pairs of images that are compared region by region
_NEIGHBOURS = 4
_SEED = 20261127
_EQUAL_COSINE = 0.998  # of two features; 3 % noise gives 0.9995
_EXACT = 20_000  # images; with more, the search visits only the nearest cells
_MIN_EQUAL = 3  # fewer equal regions may be chance, unless they are all regions of the image


def find_nearest(signatures: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find for each image the nearest image of another split.

    For each pair of splits, the images of the smaller split search the larger one, and both ends of a match record it.
    The search is exact; 10,000 against 113,000 images take about ten seconds on two cores.

    Args:
        signatures: [N, D] float32, see `expectations.features.measure_features`.
        splits: [N] str, the split of each image.

    Returns:
        rows [N] int64, -1 if there is only one split, and distances [N] float64, relative to the longer of the two
        signatures, infinite if there is only one split.
    """
    import faiss

    rows, distances = np.full(len(splits), -1, np.int64), np.full(len(splits), np.inf)
    members = sorted((np.flatnonzero(splits == name) for name in set(splits.tolist())), key=len)
    lengths = np.linalg.norm(signatures, axis=1).astype(np.float64)
    for number, smaller in enumerate(members):
        for larger in members[number + 1 :]:
            _, neighbours = faiss.knn(signatures[smaller], signatures[larger], 1)
            matches = larger[neighbours[:, 0]]
            apart = np.linalg.norm(signatures[smaller].astype(np.float64) - signatures[matches], axis=1)
            apart /= np.maximum(np.maximum(lengths[smaller], lengths[matches]), 1e-12)
            for here, there in ((smaller, matches), (matches, smaller)):
                order = np.argsort(-apart, kind="stable")  # of several matches the nearest is written last
                near = order[apart[order] < distances[here[order]]]
                distances[here[near]], rows[here[near]] = apart[near], there[near]
    return rows, distances


def find_copies(
    hashes: np.ndarray, counts: np.ndarray, splits: np.ndarray, reference: str
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each image outside the reference split the image of another split that shares most of its regions.

    Regions are equal if their features are equal; boxes are not compared. Vectors that occur in more than MAX_OWNERS
    images are ignored, and so are fewer than three equal regions. If the features come from a codebook, where one
    vector occurs in many images, all shares are 0.

    Args:
        hashes: [regions] int64 of `hash_rows`.
        counts: [images] int64, regions per image.
        splits: [images] str.
        reference: Name of the reference split, usually the training split.

    Returns:
        rows [images] int64, -1 for none, and shares [images] float64: the share of the image's regions whose features
        equal those of regions of that other image.
    """
    sources, shares = np.full(len(counts), -1, np.int64), np.zeros(len(counts))
    repeated, owners = _find_repeated(hashes), np.repeat(np.arange(len(counts)), counts)
    regions = pd.DataFrame({"vector": hashes[repeated], "image": owners[repeated]})
    occurrences = regions.drop_duplicates()  # a row for each vector and image
    if _is_codebook(occurrences, splits == reference, hashes[(splits == reference)[owners]]):
        return sources, shares
    images = occurrences.groupby("vector")["image"].transform("size")
    rare = occurrences[(images > 1) & (images <= MAX_OWNERS)]
    pairs = regions[splits[regions["image"]] != reference].merge(rare, on="vector", suffixes=("", "_of"))
    pairs = pairs[splits[pairs["image"]] != splits[pairs["image_of"]]]
    equal = pairs.groupby(["image", "image_of"]).size().reset_index(name="regions")
    equal = equal[equal["regions"] >= np.minimum(counts[equal["image"]], _MIN_EQUAL)]
    best = equal.sort_values("regions", kind="stable").drop_duplicates("image", keep="last")
    sources[best["image"]] = best["image_of"]
    shares[best["image"]] = best["regions"] / counts[best["image"]]
    return sources, shares


def _find_repeated(hashes: np.ndarray) -> np.ndarray:
    """Return [regions] bool, which hashes occur more than once. Sorting takes 40 MB and one second at COCO's size."""
    ordered = np.sort(hashes)
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(several):
        return np.zeros(len(hashes), bool)
    return several[np.minimum(np.searchsorted(several, hashes), len(several) - 1)] == hashes


def _is_codebook(occurrences: pd.DataFrame, in_reference: np.ndarray, vectors: np.ndarray) -> bool:
    """Return whether many vectors of the reference split occur in several of its images.

    in_reference: [images] bool, the images of that split; vectors: the hashes of their regions.
    """
    several = int((occurrences["vector"][in_reference[occurrences["image"]]].value_counts() > 1).sum())
    ordered = np.sort(vectors)  # np.unique would build a hash table of millions of numbers
    return several > CODEBOOK_SHARE * (1 + int(np.count_nonzero(ordered[1:] != ordered[:-1])))


def uses_codebook(hashes: np.ndarray, counts: np.ndarray, known: np.ndarray) -> bool:
    """Return whether the features come from a codebook, where one vector occurs in many images.

    hashes: [regions]; counts: [images] regions per image; known: [images] bool, images of the reference split.
    """
    repeated, owners = _find_repeated(hashes), np.repeat(np.arange(len(counts)), counts)
    regions = pd.DataFrame({"vector": hashes[repeated], "image": owners[repeated]})
    return _is_codebook(regions.drop_duplicates(), known, hashes[known[owners]])


def find_near_copies(data: Dataset, pooled: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    """Find pairs of images with nearly equal features, regardless of their scale and of the boxes.

    Candidates are images with a similar mean feature; their regions are then compared one by one.

    Args:
        data: The data set.
        pooled: [images, D] float32, mean of the regions' features in a random projection; empty to find nothing.
        counts: [images] int64, regions per image.

    Returns:
        Rows of image, other, share: the share of the image's regions that nearly equal a region of the other image.
    """
    data, starts = Dataset(data.folder, data.manifest), np.cumsum(counts) - counts
    pairs = _find_candidates(pooled)
    found = []
    for first, second in pairs.tolist():
        a, b = (_read_units(data, int(starts[row]), int(counts[row])) for row in (first, second))
        equal = a @ b.T > _EQUAL_COSINE
        found.append((first, second, equal.any(axis=1).mean()))
        found.append((second, first, equal.any(axis=0).mean()))
    return pd.DataFrame(found, columns=["image", "other", "share"]).astype({"image": "int64", "other": "int64"})


def _read_units(data: Dataset, first: int, count: int) -> np.ndarray:
    features = np.nan_to_num(data.read_features(first, count).astype(np.float32), posinf=0.0, neginf=0.0)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)


def _find_candidates(pooled: np.ndarray) -> np.ndarray:
    """Return the rows [pairs, 2] of images whose pooled features point in nearly the same direction, closest first."""
    import faiss

    if not len(pooled):
        return np.empty((0, 2), np.int64)

    def scale(x: np.ndarray) -> np.ndarray:
        return np.nan_to_num(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)).astype(np.float32)

    units = scale(pooled)
    units = scale(units - units.mean(axis=0))
    neighbours = min(_NEIGHBOURS, len(units))
    if len(units) <= _EXACT:
        distances, rows = faiss.knn(units, units, neighbours)
    else:
        cells = int(4 * len(units) ** 0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(units.shape[1]), units.shape[1], cells)
        index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = _SEED, 5, 40
        index.train(units)
        index.add(units)
        index.nprobe = 4
        distances, rows = index.search(units, neighbours)
    owners = np.repeat(np.arange(len(units)), neighbours)
    near = (rows.ravel() >= 0) & (rows.ravel() != owners) & (distances.ravel() < _CANDIDATE_DISTANCE**2)
    pairs = np.sort(np.stack([owners[near], rows.ravel()[near]], axis=1), axis=1)
    order = np.argsort(distances.ravel()[near], kind="stable")
    _, first = np.unique(pairs[order], axis=0, return_index=True)
    return pairs[order][np.sort(first)][:_CANDIDATES]
