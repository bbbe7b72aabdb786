"""An epoch has each caption once, and no batch has two captions of the same image."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hire_model.training.batches import CaptionSampler

COUNTS = st.lists(st.integers(1, 6), min_size=2, max_size=30)


def make_owners(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@given(COUNTS, st.integers(2, 9), st.integers(0, 3), st.integers(0, 3))
def test_no_batch_has_two_captions_of_the_same_image(counts: list[int], batch: int, seed: int, epoch: int) -> None:
    owner = make_owners(counts)
    batches = CaptionSampler(owner, batch, seed).draw_batches(epoch)
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen)
    most = max(counts)
    left_out = most - sorted(counts)[-2] if counts.count(most) == 1 else 0  # rounds with a single image
    assert len(seen) == len(owner) - left_out
    for rows in batches:
        assert len(np.unique(owner[rows])) == len(rows)
        assert 2 <= len(rows) <= batch + 1


@given(COUNTS, st.integers(2, 9), st.integers(1, 4))
def test_each_epoch_has_the_same_number_of_batches(counts: list[int], batch: int, world: int) -> None:
    sampler = CaptionSampler(make_owners(counts), max(batch, 2 * world), 0, 0, world)
    assert len({len(sampler.draw_batches(epoch)) for epoch in range(5)}) == 1


@given(COUNTS, st.integers(2, 4), st.integers(0, 20))
def test_the_shares_of_all_processes_add_up_to_the_whole_batch(counts: list[int], world: int, start: int) -> None:
    owner = make_owners(counts)
    ranks = [CaptionSampler(owner, 2 * world, 7, rank, world) for rank in range(world)]
    for batch, *shares in zip(
        ranks[0].draw_batches(3)[start:], *(rank.plan_epoch(3, start) for rank in ranks), strict=True
    ):
        np.testing.assert_array_equal(np.concatenate([share.rows for share in shares]), batch)
        assert all(share.sizes == tuple(len(other.rows) for other in shares) for share in shares)
        assert all(len(share.rows) for share in shares)


def test_batches_repeat_for_the_same_seed_and_epoch_only() -> None:
    owner = make_owners([5] * 40)
    first = np.concatenate(CaptionSampler(owner, 8, 0).draw_batches(0))
    assert (first == np.concatenate(CaptionSampler(owner, 8, 0).draw_batches(0))).all()
    assert (first != np.concatenate(CaptionSampler(owner, 8, 0).draw_batches(1))).any()
    assert (first != np.concatenate(CaptionSampler(owner, 8, 1).draw_batches(0))).any()


def test_the_first_round_mixes_the_captions_of_each_image() -> None:
    """If round k always held caption k, captions would always have the same negatives."""
    owner = np.repeat(np.arange(20), 5)
    first_round = [set(np.concatenate(CaptionSampler(owner, 20, 0).draw_batches(e)[:1]) % 5) for e in range(2)]
    assert all(len(kinds) > 2 for kinds in first_round)
