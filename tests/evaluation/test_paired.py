"""The paired interval of two models over the same images."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.evaluation.bootstrap import bootstrap_difference, bootstrap_intervals, bootstrap_share
from hire_model.evaluation.protocols import Ranks, compute_rsum

OWNER, FOLD = np.repeat(np.arange(100), 2), np.zeros(100, int)
Pair = tuple[np.ndarray, np.ndarray]


def _ranks(seed: int, worst: int = 30) -> Pair:
    random = np.random.default_rng(seed)
    return random.integers(1, worst, 100), random.integers(1, worst, 200)


def test_a_model_against_itself_has_no_difference() -> None:
    assert bootstrap_difference(_ranks(0), _ranks(0), OWNER, FOLD, 200, 0) == (0.0, 0.0)


def test_pairing_narrows_the_interval_of_models_that_fail_together() -> None:
    first = _ranks(0)
    second = (first[0].copy(), first[1].copy())
    second[0][:5] = 99  # the second misses five more images, and is otherwise the same
    low, high = bootstrap_difference(first, second, OWNER, FOLD, 500, 0)
    alone = bootstrap_intervals(*first, OWNER, FOLD, 500, 0)["rsum"]
    assert 0 < high - low < 0.5 * (alone[1] - alone[0])


def test_a_much_better_model_is_better_in_every_draw() -> None:
    low, high = bootstrap_difference(_ranks(0, 4), _ranks(1, 60), OWNER, FOLD, 200, 0)
    assert 0 < low < high


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_difference_lies_inside_and_turns_its_sign_with_the_order(a: int, b: int) -> None:
    first, second = _ranks(a), _ranks(b)
    low, high = bootstrap_difference(first, second, OWNER, FOLD, 400, 0)
    back = bootstrap_difference(second, first, OWNER, FOLD, 400, 0)
    np.testing.assert_allclose(back, (-high, -low), atol=1e-9)
    difference = compute_rsum(Ranks(*first, FOLD), OWNER) - compute_rsum(Ranks(*second, FOLD), OWNER)
    assert low <= difference <= high


def test_the_share_of_wins() -> None:
    wins, asked = np.array([1.0, 0.0, 2.0, 1.0]), np.array([2, 1, 2, 1])
    low, high = bootstrap_share(wins, asked, 2000, 0)
    assert 0 <= low < 100 * 4 / 6 < high <= 100
    assert bootstrap_share(asked.astype(float), asked, 50, 0) == (100.0, 100.0)
