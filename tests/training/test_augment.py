"""Augmentation drops regions and words consistently, depending only on (seed, epoch, caption)."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import given
from hypothesis import strategies as st

from hire_model.batch import Batch, Regions, Tokens
from hire_model.training.batches import Augment

RATES = st.sampled_from([0.0, 0.2, 0.7, 0.99])


def make_batch(counts: list[int], lengths: list[int], pad: int = 0, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    longest, words = max(counts) + pad, max(lengths) + pad
    mask = torch.arange(longest) < torch.tensor(counts)[:, None]
    token_mask = torch.arange(words) < torch.tensor(lengths)[:, None]
    pairs = [[i, s, s % 3, o] for i, n in enumerate(counts) for s in range(n) for o in range(n) if s != o]
    relations = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 4)
    position = torch.arange(1.0, longest + 1)[None, :, None] * mask[..., None]
    ids = torch.arange(1, words + 1)[None, :] * token_mask
    regions = Regions(
        features=position.repeat(1, 1, 2),
        boxes=position.repeat(1, 1, 4),
        mask=mask,
        boxed=mask.clone(),
        classes=torch.where(mask, 3, -1),
        relations=relations,
        relation_scores=torch.rand(len(relations), generator=g),
    )
    tokens = Tokens(ids, token_mask, ids[..., None].float())
    return Batch(regions, tokens)


SIZES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=6)


@given(SIZES, RATES, RATES, st.integers(0, 5))
def test_an_augmented_batch_is_consistent(sizes: list[tuple[int, int]], region: float, word: float, epoch: int) -> None:
    batch = make_batch([a for a, _ in sizes], [b for _, b in sizes])
    augmented = Augment(3, region, word)(batch, epoch, range(len(sizes)))
    regions, tokens = augmented.regions, augmented.tokens
    assert regions.mask.any(dim=1).all() and tokens.mask[:, 0].all()
    counts = regions.mask.sum(dim=1, keepdim=True)
    assert (counts <= batch.regions.mask.sum(dim=1, keepdim=True)).all() and counts.max() == regions.mask.shape[1]
    assert (regions.mask == (torch.arange(regions.mask.shape[1]) < counts)).all()
    assert (regions.features[..., 0].diff(dim=1)[regions.mask[:, 1:]] > 0).all(), "the order of the regions has changed"
    assert (regions.features[..., 0] == regions.boxes[..., 0]).all()
    image, subject, predicate, object_ = regions.relations.unbind(dim=1)
    old = regions.features[..., 0].long() - 1  # make_batch writes the place of a region to its features
    assert (predicate == old[image, subject] % 3).all() and (old[image, subject] != old[image, object_]).all()
    kept = old.masked_fill(~regions.mask, -1)
    possible = [[i, s, s % 3, o] for i, s, _, o in batch.regions.relations.tolist() if {s, o} <= set(kept[i].tolist())]
    found = torch.stack([image, old[image, subject], predicate, old[image, object_]], dim=1)
    assert found.tolist() == possible
    assert regions.mask[image, subject].all() and regions.mask[image, object_].all()
    assert len(regions.relation_scores) == len(regions.relations)
    dropped = ~regions.mask
    assert not regions.features[dropped].any() and not regions.boxes[dropped].any() and not regions.boxed[dropped].any()
    assert (regions.classes[dropped] == -1).all() and (regions.classes[~dropped] == 3).all()
    assert (tokens.ids[:, 0] == 1).all()
    lengths = tokens.mask.sum(dim=1, keepdim=True)
    assert (tokens.mask == (torch.arange(tokens.mask.shape[1]) < lengths)).all()
    assert (tokens.ids.diff(dim=1)[tokens.mask[:, 1:]] > 0).all(), "the order of the words has changed"
    assert tokens.states is not None and (tokens.states[..., 0] == tokens.ids).all()
    assert not tokens.ids[~tokens.mask].any()


def test_the_dropped_shares_match_the_rates() -> None:
    batch = make_batch([36] * 64, [40] * 64)
    augmented = Augment(0, 0.2, 0.3)(batch, 0, range(64))
    assert abs(int(augmented.regions.mask.sum()) / (64 * 36) - 0.8) < 0.03
    assert abs(int(augmented.tokens.mask.sum()) / (64 * 40) - 0.7) < 0.03
    assert abs(len(augmented.regions.relations) / len(batch.regions.relations) - 0.8**2) < 0.04


def test_rates_of_zero_return_the_same_batch() -> None:
    batch = make_batch([3], [4])
    assert Augment(0)(batch, 0, [0]) is batch


@given(st.integers(0, 4), st.integers(0, 3))
def test_other_items_and_padding_do_not_change_what_is_dropped(epoch: int, pad: int) -> None:
    augment = Augment(1, 0.4, 0.4)
    together = augment(make_batch([5, 7, 4], [6, 3, 9], pad), epoch, [10, 11, 12])
    alone = augment(make_batch([4], [9]), epoch, [12])
    count = int(alone.regions.mask.sum())
    assert together.regions.features[2, :count].tolist() == alone.regions.features[0].tolist()
    assert not together.regions.mask[2, count:].any()
    length = int(alone.tokens.mask.sum())
    assert together.tokens.ids[2, :length].tolist() == alone.tokens.ids[0, :length].tolist()
    relations = together.regions.relations[together.regions.relations[:, 0] == 2, 1:]
    assert relations.tolist() == alone.regions.relations[:, 1:].tolist()


def test_another_epoch_caption_or_seed_drops_other_regions() -> None:
    batch = make_batch([30], [30])
    kept = [
        augment(batch, epoch, [caption]).regions.features[0, :, 0]
        for augment, epoch, caption in [
            (Augment(0, 0.5), 0, 0), (Augment(0, 0.5), 1, 0), (Augment(0, 0.5), 0, 1), (Augment(1, 0.5), 0, 0)
        ]
    ]  # fmt: skip
    assert len({tuple(places.tolist()) for places in kept}) == 4


def test_the_region_rate_does_not_change_which_words_are_dropped() -> None:
    batch = make_batch([9, 8], [12, 5])
    words = Augment(0, 0.0, 0.5)(batch, 0, [0, 1]).tokens
    both = Augment(0, 0.5, 0.5)(batch, 0, [0, 1]).tokens
    assert all(torch.equal(getattr(words, f.name), getattr(both, f.name)) for f in dataclasses.fields(words))


@given(SIZES, st.integers(0, 5))
def test_damaged_edges_depend_only_on_seed_epoch_and_caption(sizes: list[tuple[int, int]], epoch: int) -> None:
    counts, lengths, augment = [a for a, _ in sizes], [b for _, b in sizes], Augment(3, edge_damage=0.75)
    together = augment(make_batch(counts, lengths, pad=2), epoch, range(len(sizes)))
    for row, (count, length) in enumerate(sizes):
        alone = augment(make_batch([count], [length]), epoch, [row]).regions
        of_row = together.regions.relations[:, 0] == row
        assert torch.equal(alone.relations[:, 1:], together.regions.relations[of_row, 1:])
        assert alone.graph_boxed is not None and together.regions.graph_boxed is not None
        assert torch.equal(alone.graph_boxed[0], together.regions.graph_boxed[row, :count])


def test_the_share_of_damaged_images_is_the_setting_and_boxes_stay() -> None:
    batch = make_batch([5] * 400, [3] * 400)
    damaged = Augment(0, edge_damage=0.75)(batch, 0, range(400))
    assert torch.equal(damaged.regions.boxes, batch.regions.boxes)
    assert torch.equal(damaged.regions.boxed, batch.regions.boxed)
    assert damaged.true_relations is batch.regions.relations
    changed = []
    for row in range(400):
        before, after = (r.relations[r.relations[:, 0] == row] for r in (batch.regions, damaged.regions))
        changed.append(not torch.equal(before, after))
    assert abs(sum(changed) / 400 - 0.75) < 0.08
    assert Augment(0)(batch, 0, range(400)) is batch
