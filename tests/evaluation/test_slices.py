"""Slices: each query is in one bin, and recall is computed within the bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.evaluation.ranks import NO_QUERY
from hire_model.evaluation.slices import BINS, slice_by, split_into_bins


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200))
def test_each_query_is_in_exactly_one_bin(counts: list[int]) -> None:
    bins = split_into_bins(np.array(counts))
    assert 1 <= len(bins) <= BINS
    assert all(sum(first <= count <= last for first, last in bins) == 1 for count in counts)
    assert all(any(first <= count <= last for count in counts) for first, last in bins)


def test_bins_have_about_the_same_number_of_queries() -> None:
    table = slice_by("Words", "t2i", np.arange(100), np.ones(100, int))
    assert [part.queries for part in table.slices] == [25, 25, 25, 25]
    assert table.slices[0].label == "0–24"


def test_recall_is_computed_within_the_slice() -> None:
    ranks = np.array([1, 1, 4, 20, NO_QUERY])
    table = slice_by("Words", "i2t", np.array([1, 1, 9, 9, 9]), ranks)
    assert [(part.label, part.queries) for part in table.slices] == [("1", 2), ("9", 2)]
    assert table.slices[1].recalls == pytest.approx((0, 50, 50))
