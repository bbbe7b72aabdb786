"""Finding images that are in two splits: copied features and nearest images equal plain searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.check import validate
from expectations.duplicates import MAX_OWNERS, find_copies, find_nearest
from expectations.features import hash_rows
from hire_model.data.synthetic import generate
from hire_model.data.synthetic.detector import Faults

pytestmark = pytest.mark.slow

IMAGES = st.lists(
    st.tuples(st.sampled_from(["train", "dev", "test"]), st.lists(st.integers(0, 9), min_size=1, max_size=5)),
    min_size=1, max_size=8,
)  # fmt: skip


def find(images: list[tuple[str, list[int]]], unique: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and shares of images given as (split, vectors); a training image with unique vectors is added."""
    all_images = [("train", list(range(1000, 1000 + unique))), *images]
    hashes = np.array([vector for _, vectors in all_images for vector in vectors], np.int64)
    counts = np.array([len(vectors) for _, vectors in all_images], np.int64)
    sources, shares = find_copies(hashes, counts, np.array([split for split, _ in all_images]), "train")
    return sources[1:], shares[1:]


@settings(deadline=None)
@given(IMAGES)
def test_copies_equal_a_plain_search(images: list[tuple[str, list[int]]]) -> None:
    sources, shares = find(images)
    for k, (split, vectors) in enumerate(images):
        equal = [sum(v in others for v in vectors) if other != split else 0 for other, others in images]
        best = max(equal) if split != "train" else 0
        best = best if best >= min(len(vectors), 3) else 0
        assert shares[k] == best / len(vectors)
        assert (sources[k] == -1) if not best else equal[sources[k] - 1] == best


@pytest.mark.parametrize(("train", "test", "share"), [
    ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 99], 6 / 7),  # one region differs
    ([1, 2, 3, 4, 5, 6, 7], [7, 5, 3, 1, 2, 4, 6], 1.0),  # another order
    ([1, 2, 3], [1, 2, 99], 0.0),  # two equal regions may be chance
    ([1, 2], [1, 2], 1.0),  # all regions are equal
])  # fmt: skip
def test_the_share_of_copied_regions(train: list[int], test: list[int], share: float) -> None:
    assert find([("train", train), ("test", test)])[1].tolist() == [0.0, pytest.approx(share)]


def test_vectors_in_many_images_are_ignored() -> None:
    """An example is the padding of images with few regions."""
    padded = [("train", [k, 7, 8, 9]) for k in range(100, 100 + MAX_OWNERS)]
    assert not find([*padded, ("test", [50, 7, 8, 9])])[1].any()


def test_vectors_of_a_codebook_are_ignored() -> None:
    """An example is CoDraw, where each vector is a piece of clip art."""
    images = [("train", [1, 2, 3]), ("train", [1, 2, 4]), ("test", [1, 2, 3])]
    assert find(images)[1].any()
    assert not find(images, unique=4)[1].any()


def test_scenes_without_noise_contain_no_copies(tmp_path: Path) -> None:
    """Without noise, dogs of the same appearance have the same features in different scenes."""
    generate(tmp_path / "d", train=60, dev=30, test=30, seed=0, faults=Faults.none())
    results = [result for result in validate(tmp_path / "d").results if result.table == "splits"]
    assert next(result for result in results if "most of its features" in result.expectation).ok


def test_equal_rows_have_equal_hashes() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float16)
    rows[3] = rows[1]
    hashes = hash_rows(rows).tolist()
    assert hashes[3] == hashes[1] and len(set(hashes)) == 4


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["train", "dev", "test"]), st.integers(0, 5), st.integers(0, 5)), min_size=1),
)
def test_find_nearest_equals_a_plain_search(images: list[tuple[str, int, int]]) -> None:
    splits = np.array([split for split, _, _ in images])
    points = np.array([[x + 1, y + 1] for _, x, y in images], np.float32)
    rows, distances = find_nearest(points, splits)
    lengths = np.linalg.norm(points, axis=1)
    for k, split in enumerate(splits):
        others = np.flatnonzero(splits != split)
        same = [j for j in others if (points[j] == points[k]).all()]
        if not len(others):
            assert rows[k] == -1 and distances[k] == np.inf
        elif same:
            # both ends of a match record it, unless the image of the larger split matches another copy
            assert distances[k] == 0 or (distances[same] == 0).any()
        if rows[k] >= 0:
            apart = np.linalg.norm(points[k] - points[rows[k]]) / max(lengths[k], lengths[rows[k]])
            assert splits[rows[k]] != split and abs(apart - distances[k]) < 1e-6
