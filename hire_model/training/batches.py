"""The batches of an epoch: which captions make each batch, how it is loaded, and what is dropped from it.

All that is random here is drawn from the seed and the epoch, and for dropping from the caption too. It depends neither
on the number of loader workers or training processes nor on where a run was resumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from hire_model.batch import Batch, Regions, Tokens
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.training.signals import ignore_stop_signals

_SAMPLER_STREAM, _AUGMENT_STREAM = 1, 2  # separate the uses of one seed


@dataclass(frozen=True)
class BatchPlan:
    """One process's share of one batch.

    rows    [c] int64, captions of the split that this process loads
    sizes   captions per process, in rank order; their sum is the size of the whole batch
    """

    epoch: int
    index: int
    rows: np.ndarray
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class CaptionSampler:
    """Draws batches in which every image occurs at most once, so that no caption of the same image is a negative.

    An epoch has rounds: the captions of each image are shuffled; round k takes the k-th caption of every image that has
    one, in a new order, and is cut into batches. So an epoch holds every caption exactly once. A rest at the end of a
    round that is too short for negatives (fewer than 2 captions, or fewer than there are processes) joins the batch
    before it. A whole round that is too short is left out; this happens only where one image has more captions than all
    others. The batches are a pure function of (seed, epoch): to resume is to skip the first ones.

    owner [M] int64: image of each caption; batch: captions in a whole batch, over all processes.
    """

    owner: np.ndarray
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def plan_epoch(self, epoch: int, start: int = 0) -> list[BatchPlan]:
        """Return this process's shares of the batches of `epoch`, from batch `start` on."""
        plans = []
        for index, batch in enumerate(self.draw_batches(epoch)):
            shares = np.array_split(batch, self.world)
            plans.append(BatchPlan(epoch, index, shares[self.rank], tuple(len(share) for share in shares)))
        return plans[start:]

    def draw_batches(self, epoch: int) -> list[np.ndarray]:
        """Return all batches of `epoch` as captions [n] int64; n is `batch`, for the last one fewer or a few more."""
        rng = np.random.default_rng([self.seed, _SAMPLER_STREAM, epoch])
        shuffled = rng.permutation(len(self.owner))
        by_image = shuffled[np.argsort(self.owner[shuffled], kind="stable")]
        owners = self.owner[by_image]
        first = np.searchsorted(owners, owners)  # where the captions of each one's image begin
        rounds = np.arange(len(owners)) - first
        order = np.lexsort((rng.random(len(owners)), rounds))
        cuts = np.flatnonzero(np.diff(rounds[order])) + 1
        return [batch for part in np.split(by_image[order], cuts) for batch in self._cut(part)]

    def _cut(self, captions: np.ndarray) -> list[np.ndarray]:
        least = max(2, self.world)
        if len(captions) < least:
            return []
        starts = list(range(0, len(captions), self.batch))
        if len(starts) > 1 and len(captions) - starts[-1] < least:
            starts.pop()
        return np.split(captions, starts[1:])


@dataclass(frozen=True)
class Augment:
    """Drops regions and words: 20 % of each by default (VSE-infinity, Chen et al. 2021, sec. 4).

    region_drop, word_drop: rates in 0-1. What a caption and its image lose depends on (seed, epoch, caption) alone.
    """

    seed: int
    region_drop: float = 0.0
    word_drop: float = 0.0

    def __call__(self, batch: Batch, epoch: int, captions: Sequence[int]) -> Batch:
        """Return `batch` with regions and words dropped; its image i and caption i belong to row `captions[i]`."""
        if not (self.region_drop or self.word_drop):
            return batch
        rngs = [np.random.default_rng([self.seed, _AUGMENT_STREAM, epoch, int(caption)]) for caption in captions]
        # Both are drawn whatever the rates are: one rate does not change what the other drops.
        regions, words = _draw(rngs, batch.regions.mask), _draw(rngs, batch.tokens.mask)
        return Batch(
            drop_regions(batch.regions, regions < self.region_drop), drop_words(batch.tokens, words < self.word_drop)
        )


def _draw(rngs: Sequence[np.random.Generator], mask: Tensor) -> Tensor:
    """[B, n] uniform numbers, in each row only as many as `mask` [B, n] marks, so that padding changes nothing."""
    drawn = np.ones(mask.shape)
    for row, (rng, count) in enumerate(zip(rngs, mask.sum(dim=1).tolist(), strict=True)):
        drawn[row, :count] = rng.random(count)
    return torch.from_numpy(drawn)


def drop_regions(regions: Regions, dropped: Tensor) -> Regions:
    """Drop the regions `dropped` [B, R] with their boxes and relations. An image always keeps one region."""
    mask = regions.mask & ~dropped
    mask |= _mark_first(regions.mask) & ~mask.any(dim=1, keepdim=True)
    image, subject, _, object_ = regions.relations.unbind(dim=1)
    edges = mask[image, subject] & mask[image, object_]
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
    """Drop the word pieces `dropped` [C, L]. The rest moves up, so that the mask stays a prefix for the GRU.

    The first piece always stays: it is the special token of encoders that have one, and no caption becomes empty.
    """
    keep = tokens.mask & (~dropped | _mark_first(tokens.mask))
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, : int(keep.sum(dim=1).max())]
    mask = keep.gather(1, order)
    states = tokens.states
    if states is not None:
        states = states.gather(1, order[..., None].expand(-1, -1, states.shape[2])).masked_fill(~mask[..., None], 0)
    return Tokens(tokens.ids.gather(1, order).masked_fill(~mask, 0), mask, states)


def _mark_first(mask: Tensor) -> Tensor:
    """[B, n] bool, True only at each row's first True."""
    return mask & (mask.cumsum(dim=1) == 1)


@dataclass(frozen=True)
class PlannedBatches(TorchDataset[Batch]):
    """A map from plans to batches."""

    split: Split
    bank: CaptionBank
    augment: Augment

    def __getitem__(self, plan: BatchPlan) -> Batch:
        """Load the share of a batch that `plan` names: caption i belongs to image i."""
        regions = collate_regions([self.split.regions(int(self.split.owner[row])) for row in plan.rows])
        return self.augment(Batch(regions, self.bank.tokens(plan.rows)), plan.epoch, plan.rows.tolist())


@dataclass(frozen=True)
class Loader:
    """Loads the batches of an epoch, from any batch on.

    workers: loader processes; 0 loads in the training process.
    """

    sampler: CaptionSampler
    batches: PlannedBatches
    workers: int = 0

    def load_epoch(self, epoch: int, start: int = 0) -> Generator[tuple[BatchPlan, Batch]]:
        """Yield (plan, batch) for each batch of `epoch` from batch `start` on."""
        plans = self.sampler.plan_epoch(epoch, start)
        # The loader draws a seed for its workers when it starts: from a generator of its own, or the number of starts
        # (one more after a resume) would move torch's global state.
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=plans,  # type: ignore[arg-type]
            num_workers=self.workers,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator().manual_seed(self.sampler.seed),
        )
        yield from zip(plans, loader, strict=True)
