"""The paired bootstrap interval of two models over the same images."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.evaluation.bootstrap import bootstrap_differences, bootstrap_intervals, bootstrap_share
from hire_model.evaluation.protocols import Ranks, compute_rsum

OWNER, FOLD = np.repeat(np.arange(100), 2), np.zeros(100, int)
Pair = tuple[np.ndarray, np.ndarray]


def draw_ranks(seed: int, worst: int = 30) -> Pair:
    random = np.random.default_rng(seed)
    return random.integers(1, worst, 100), random.integers(1, worst, 200)


def test_a_model_compared_with_itself_has_no_difference() -> None:
    assert bootstrap_differences(draw_ranks(0), draw_ranks(0), OWNER, FOLD, 200, 0)["rsum"] == (0.0, 0.0)


def test_the_paired_interval_of_similar_models_is_narrow() -> None:
    first = draw_ranks(0)
    second = (first[0].copy(), first[1].copy())
    second[0][:5] = 99  # the second model misses five more images
    low, high = bootstrap_differences(first, second, OWNER, FOLD, 500, 0)["rsum"]
    single = bootstrap_intervals(*first, OWNER, FOLD, 500, 0)["rsum"]
    assert 0 < high - low < 0.5 * (single[1] - single[0])


def test_the_interval_of_a_much_better_model_is_above_0() -> None:
    low, high = bootstrap_differences(draw_ranks(0, 4), draw_ranks(1, 60), OWNER, FOLD, 200, 0)["rsum"]
    assert 0 < low < high


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_interval_contains_the_difference_and_changes_sign_with_the_order(a: int, b: int) -> None:
    first, second = draw_ranks(a), draw_ranks(b)
    low, high = bootstrap_differences(first, second, OWNER, FOLD, 400, 0)["rsum"]
    reverse = bootstrap_differences(second, first, OWNER, FOLD, 400, 0)["rsum"]
    np.testing.assert_allclose(reverse, (-high, -low), atol=1e-9)
    difference = compute_rsum(Ranks(*first, FOLD), OWNER) - compute_rsum(Ranks(*second, FOLD), OWNER)
    assert low <= difference <= high


def test_the_interval_contains_the_share_of_wins() -> None:
    wins, totals = np.array([1.0, 0.0, 2.0, 1.0]), np.array([2, 1, 2, 1])
    low, high = bootstrap_share(wins, totals, 2000, 0)
    assert 0 <= low < 100 * 4 / 6 < high <= 100
    assert bootstrap_share(totals.astype(float), totals, 50, 0) == (100.0, 100.0)
