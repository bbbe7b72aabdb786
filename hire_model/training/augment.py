"""Dropped regions, words and relations: 20 % of regions and words by default (VSE-infinity, Chen et al. 2021, sec. 4).

What a caption and its image lose in an epoch is drawn from (seed, epoch, caption) alone. It depends neither on the
batch they are in, nor on the number of loader workers or training processes, nor on where a run was resumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import Batch, Regions, Tokens

_STREAM = 2


@dataclass(frozen=True)
class Augment:
    """Rates in 0-1 at which regions, words and relations are dropped while training."""

    seed: int
    region_drop: float = 0.0
    word_drop: float = 0.0
    edge_drop: float = 0.0

    def __call__(self, batch: Batch, epoch: int, captions: Sequence[int]) -> Batch:
        """`batch` thinned out; image i and caption i of it belong to `captions[i]`, a row of the split."""
        if not (self.region_drop or self.word_drop or self.edge_drop):
            return batch
        rngs = [np.random.default_rng([self.seed, _STREAM, epoch, int(caption)]) for caption in captions]
        # Every stream is read in the same order whatever the rates are: one rate does not change what another drops.
        regions = _draw(rngs, batch.regions.mask.sum(dim=1), batch.regions.mask.shape[1])
        words = _draw(rngs, batch.tokens.mask.sum(dim=1), batch.tokens.mask.shape[1])
        counts = torch.bincount(batch.regions.relations[:, 0], minlength=len(rngs))
        edges = torch.from_numpy(np.concatenate([rng.random(n) for rng, n in zip(rngs, counts.tolist(), strict=True)]))
        thin = drop_regions(batch.regions, regions < self.region_drop, edges < self.edge_drop)
        return Batch(thin, drop_words(batch.tokens, words < self.word_drop), batch.owner)


def _draw(rngs: Sequence[np.random.Generator], counts: Tensor, width: int) -> Tensor:
    """[B, width] uniform numbers, for each row only as many as it has real items, so that padding changes nothing."""
    drawn = np.ones((len(rngs), width))
    for row, (rng, count) in enumerate(zip(rngs, counts.tolist(), strict=True)):
        drawn[row, :count] = rng.random(count)
    return torch.from_numpy(drawn)


def drop_regions(regions: Regions, dropped: Tensor, lost: Tensor) -> Regions:
    """Take out the regions `dropped` [B, R] with their boxes and relations, and the relations `lost` [E].

    Every image keeps its first real region where all would go.
    """
    mask = regions.mask & ~dropped
    mask |= _first(regions.mask) & ~mask.any(dim=1, keepdim=True)
    image, subject, _, object_ = regions.relations.unbind(dim=1)
    edges = mask[image, subject] & mask[image, object_] & ~lost
    return dataclasses.replace(
        regions,
        features=regions.features.masked_fill(~mask[..., None], 0),
        boxes=regions.boxes.masked_fill(~mask[..., None], 0),
        mask=mask,
        boxed=regions.boxed & mask,
        classes=regions.classes.masked_fill(~mask, -1),
        relations=regions.relations[edges],
        relation_scores=regions.relation_scores[edges],
    )


def drop_words(tokens: Tokens, dropped: Tensor) -> Tokens:
    """Take out the word pieces `dropped` [C, L]; the rest moves up, so that the mask stays a prefix for the GRU.

    The first piece always stays: it is the special token of encoders that have one, and no caption becomes empty.
    """
    keep = tokens.mask & (~dropped | _first(tokens.mask))
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, : int(keep.sum(dim=1).max())]
    mask = keep.gather(1, order)
    states = tokens.states
    if states is not None:
        states = states.gather(1, order[..., None].expand(-1, -1, states.shape[2])).masked_fill(~mask[..., None], 0)
    return Tokens(tokens.ids.gather(1, order).masked_fill(~mask, 0), mask, states)


def _first(mask: Tensor) -> Tensor:
    """[B, R] bool, True only at each row's first True."""
    return mask & (mask.cumsum(dim=1) == 1)
