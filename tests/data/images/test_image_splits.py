"""Splits are reproducible, have the sizes asked for, and never divide near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from hire_model.data.images import splits
from hire_model.data.images.splits import Shares, assign_splits, group_near_duplicates
from hire_model.errors import DataError

NAMES = [f"{number}.jpg" for number in range(100)]
ALONE = np.arange(100)


def test_the_splits_have_the_shares() -> None:
    parts = assign_splits(NAMES, ALONE, Shares(), 0)
    assert [parts.count(name) for name in ("train", "dev", "test")] == [80, 10, 10]
    assert assign_splits(NAMES, ALONE, Shares(1, 0, 0), 0) == ["train"] * 100


def test_the_same_seed_gives_the_same_splits_in_any_order_of_the_file() -> None:
    parts = dict(zip(NAMES, assign_splits(NAMES, ALONE, Shares(), 3), strict=True))
    assert dict(zip(NAMES[::-1], assign_splits(NAMES[::-1], ALONE, Shares(), 3), strict=True)) == parts
    assert dict(zip(NAMES, assign_splits(NAMES, ALONE, Shares(), 4), strict=True)) != parts


def test_a_few_new_pictures_leave_most_others_in_their_split() -> None:
    before = assign_splits(NAMES, ALONE, Shares(), 0)
    after = assign_splits([*NAMES, "x", "y", "z"], np.arange(103), Shares(), 0)
    assert sum(a != b for a, b in zip(before, after, strict=False)) <= 4


def test_a_group_is_never_divided_even_if_it_is_larger_than_a_split() -> None:
    groups = np.where(ALONE < 40, 0, ALONE // 3 * 3)
    for seed in range(5):
        parts = assign_splits(NAMES, groups, Shares(), seed)
        assert set(parts) == {"train", "dev", "test"}
        for first in set(groups.tolist()):
            assert len({split for split, group in zip(parts, groups, strict=True) if group == first}) == 1


def test_each_split_gets_a_picture_or_the_import_is_refused() -> None:
    assert sorted(assign_splits(NAMES[:3], ALONE[:3], Shares(), 0)) == ["dev", "test", "train"]
    assert set(assign_splits(NAMES[:90], ALONE[:90] // 30 * 30, Shares(), 0)) == {"train", "dev", "test"}
    with pytest.raises(DataError, match=r"3 pictures \(2 without near-duplicates\) are too few"):
        assign_splits(NAMES[:3], np.array([0, 0, 2]), Shares(), 0)


@pytest.mark.parametrize("text", ["80,20", "a,b,c", "0,50,50", "80,-10,10", "nan,1,1", ""])
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="--shares"):
        Shares.parse(text)


def test_near_duplicates_are_grouped_over_chains_and_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_PAIRS", 50_000)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 1100, np.uint64)
    thumbnails = rng.integers(0, 256, (1100, 192)).astype(np.uint8)
    hashes[700], thumbnails[700] = hashes[3] ^ np.uint64(0b111111), thumbnails[3]  # 6 bits apart
    hashes[1000], thumbnails[1000] = hashes[700] ^ np.uint64(0b111111 << 20), thumbnails[3]  # 12 from 3, 6 from 700
    hashes[900] = hashes[5]  # equal hashes of unlike thumbnails are no duplicates
    expected = np.arange(1100)
    expected[[700, 1000]] = 3
    assert (group_near_duplicates(hashes, thumbnails) == expected).all()
