"""Ranks and recall equal a slow reference; ties count against the query."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.errors import HireError
from hire_model.evaluation.ranks import NO_QUERY, compute_chance_recall, compute_recall, rank_matrix


def slow_ranks(scores: np.ndarray, owner: np.ndarray) -> tuple[list[int], list[int]]:
    """Compute ranks by definition: sort with irrelevant items first among equals, find the first relevant one."""

    def first_relevant(items: list[tuple[float, bool]]) -> int:
        items = sorted(items, key=lambda item: (-item[0], item[1]))
        return 1 + [relevant for _, relevant in items].index(True)

    images, captions = scores.shape
    i2t = []
    for i in range(images):
        items = [(float(scores[i, j]), bool(owner[j] == i)) for j in range(captions)]
        i2t.append(first_relevant(items) if any(relevant for _, relevant in items) else NO_QUERY)
    t2i = [first_relevant([(float(scores[i, j]), bool(owner[j] == i)) for i in range(images)]) for j in range(captions)]
    return i2t, t2i


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw a matrix and a map with many ties, images without captions, and images with many captions."""
    images, captions = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    values = draw(st.lists(st.integers(-2, 2), min_size=images * captions, max_size=images * captions))
    owner = draw(st.lists(st.integers(0, images - 1), min_size=captions, max_size=captions))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    return np.array(values, dtype).reshape(images, captions), np.array(owner)


@given(problems())
def test_ranks_equal_the_slow_reference(problem: tuple[np.ndarray, np.ndarray]) -> None:
    i2t, t2i = rank_matrix(*problem)
    assert (i2t.tolist(), t2i.tolist()) == slow_ranks(*problem)


@given(problems(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_images_and_captions(
    problem: tuple[np.ndarray, np.ndarray], random
) -> None:
    scores, owner = problem
    rows, columns = list(range(len(scores))), list(range(len(owner)))
    random.shuffle(rows)
    random.shuffle(columns)
    i2t, t2i = rank_matrix(scores, owner)
    new_i2t, new_t2i = rank_matrix(scores[rows][:, columns], np.argsort(rows)[owner[columns]])
    assert (new_i2t == i2t[rows]).all()
    assert (new_t2i == t2i[columns]).all()


@pytest.mark.parametrize("block", [1, 13, 1 << 24])
def test_ranks_do_not_depend_on_the_block_size_or_memory_mapping(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    scores, owner = random.integers(0, 9, (23, 40)).astype(np.float32), random.integers(0, 23, 40)
    mapped = np.memmap(tmp_path / "scores", np.float32, "w+", shape=scores.shape)
    mapped[:] = scores
    monkeypatch.setattr("hire_model.evaluation.ranks._BLOCK_CELLS", block)
    i2t, t2i = rank_matrix(mapped, owner)
    assert (i2t.tolist(), t2i.tolist()) == slow_ranks(scores, owner)


def test_a_constant_scorer_gets_the_last_rank() -> None:
    owner = np.repeat(np.arange(20), 5)
    i2t, t2i = rank_matrix(np.ones((20, 100), np.float32), owner)
    assert (i2t == 96).all()  # 95 wrong captions tie with five right ones
    assert (t2i == 20).all()
    assert compute_recall(i2t, 10) == compute_recall(t2i, 10) == 0.0


def test_images_without_captions_are_in_the_gallery_but_not_in_the_mean() -> None:
    scores = np.array([[1.0, 0.0], [2.0, 3.0], [0.0, 9.0]])
    i2t, t2i = rank_matrix(scores, np.array([0, 1]))
    assert i2t.tolist() == [1, 1, NO_QUERY]
    assert t2i.tolist() == [2, 2]  # image 2, without captions, scores higher than the right one
    assert compute_recall(i2t, 1) == 100.0


@pytest.mark.parametrize("row", [0, 3])
def test_the_error_for_nan_names_the_cell(row: int) -> None:
    scores = np.zeros((4, 6), np.float32)
    scores[row, 5] = np.nan
    with pytest.raises(HireError, match=f"image {row} and caption 5 is NaN"):
        rank_matrix(scores, np.array([0, 0, 1, 1, 2, 3]))


@pytest.mark.parametrize(
    ("shape", "owner", "message"),
    [
        ((3, 6), [0, 0, 1, 1, 2], "one integer for each of the 6 captions"),
        ((6, 3), [0, 0, 1, 1, 2, 2], "transposed"),
        ((3, 2), [0, 3], "Caption 1 belongs to image 3"),
        ((3, 2), [0, -1], "Caption 1 belongs to image -1"),
        ((3, 2), [0.0, 1.0], "one integer"),
        ((0, 2), [0, 0], "neither 0"),
    ],
)
def test_wrong_shapes_are_refused(shape: tuple[int, int], owner: list[int], message: str) -> None:
    with pytest.raises(HireError, match=message):
        rank_matrix(np.zeros(shape), np.array(owner))


def test_recall_by_chance_equals_its_formula() -> None:
    owner = np.array([0, 0, 0, 2, 2, 3])
    i2t, t2i = compute_chance_recall(owner, 5, np.array([1, 2, 6, 50]))
    expected = [
        100 * np.mean([1 - math.comb(6 - c, min(k, 6)) / math.comb(6, min(k, 6)) for c in (3, 2, 1)])
        for k in (1, 2, 6, 50)
    ]
    assert i2t == pytest.approx(expected)
    assert t2i == pytest.approx([20, 40, 100, 100])


def test_recall_by_chance_equals_that_of_a_random_scorer() -> None:
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(300), 5)
    i2t, t2i = rank_matrix(random.random((300, 1500)), owner)
    by_chance = compute_chance_recall(owner, 300, np.array([10]))
    assert compute_recall(i2t, 10) == pytest.approx(by_chance[0][0], abs=3)
    assert compute_recall(t2i, 10) == pytest.approx(by_chance[1][0], abs=1.5)
