"""The batches of an epoch: draw their captions, load them, and drop regions and words.

Random numbers depend only on the seed and the epoch (for dropping, also on the caption). They do not depend on the
number of loader workers or training processes, or on where a run was resumed.
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

from hire_model.batch import Batch, Negatives, Regions, Tokens
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.training.damage import Damage, close_gaps, damage_regions, drop_regions, mark_first
from hire_model.training.negative_bank import NegativeBank
from hire_model.training.signals import ignore_stop_signals

_SAMPLER_STREAM, _AUGMENT_STREAM, _DAMAGE_STREAM = 1, 2, 3  # independent random streams from one seed
_DAMAGES: tuple[Damage, ...] = (
    "relations dropped",
    "relations shuffled",
    "edges dropped",
)  # those of train.edge_damage


@dataclass(frozen=True)
class BatchPlan:
    """One process's share of a batch.

    Attributes:
        epoch: number of the epoch.
        index: number of the batch in the epoch.
        rows: [c] int64, captions of the split that this process loads.
        sizes: captions per process, in rank order; they add up to the size of the whole batch.
    """

    epoch: int
    index: int
    rows: np.ndarray
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class CaptionSampler:
    """Draw batches in which each image occurs at most once, so that no caption of the same image is a negative.

    An epoch consists of rounds. The captions of each image are shuffled; round k takes the k-th caption of each image
    that has one, in random order, and is cut into batches. A batch is too short if it has fewer than 2 captions, or
    fewer captions than there are processes. A remainder that is too short is added to the batch before it.

    An epoch contains each caption at most once; only the captions of a round that is too short for a batch are left
    out. With one process, this happens only if one image has more captions than all others. Batches depend only on
    (seed, epoch): a resumed run skips the first ones.

    Args:
        owner: [M] int64, image of each caption.
        batch: captions in a whole batch, over all processes.
        seed: seed of the run.
        rank: number of this process.
        world: number of processes.
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
        """Return all batches of `epoch` as captions [n] int64; n is `batch`, but the last of a round may differ."""
        rng = np.random.default_rng([self.seed, _SAMPLER_STREAM, epoch])
        shuffled = rng.permutation(len(self.owner))
        by_image = shuffled[np.argsort(self.owner[shuffled], kind="stable")]
        owners = self.owner[by_image]
        first = np.searchsorted(owners, owners)  # index of the first caption of the same image
        rounds = np.arange(len(owners)) - first
        order = np.lexsort((rng.random(len(owners)), rounds))
        cuts = np.flatnonzero(np.diff(rounds[order])) + 1
        return [batch for part in np.split(by_image[order], cuts) for batch in self._cut(part)]

    def _cut(self, captions: np.ndarray) -> list[np.ndarray]:
        minimum = max(2, self.world)
        if len(captions) < minimum:
            return []
        starts = list(range(0, len(captions), self.batch))
        if len(starts) > 1 and len(captions) - starts[-1] < minimum:
            starts.pop()
        return np.split(captions, starts[1:])


@dataclass(frozen=True)
class Augment:
    """Drop random regions and words of a batch (VSE-infinity, Chen et al. 2021, section 4), and damage its edges.

    What is dropped from a pair and damaged depends only on (seed, epoch, caption).

    Args:
        seed: seed of the run.
        region_drop: rate in 0-1.
        word_drop: rate in 0-1.
        edge_damage: share of images in 0-1 that lose or exchange a random share of their edges.
    """

    seed: int
    region_drop: float = 0.0
    word_drop: float = 0.0
    edge_damage: float = 0.0

    def __call__(self, batch: Batch, epoch: int, captions: Sequence[int]) -> Batch:
        """Return `batch` changed; its image i and caption i belong to row `captions[i]`."""
        if self.edge_damage:
            damaged = self._damage_edges(batch.regions, epoch, captions)
            batch = dataclasses.replace(batch, regions=damaged, true_relations=batch.regions.relations)
        if not (self.region_drop or self.word_drop):
            return batch
        rngs = [np.random.default_rng([self.seed, _AUGMENT_STREAM, epoch, int(caption)]) for caption in captions]
        # Draw for both even if one rate is 0, so that one rate does not change what the other drops.
        regions, words = _draw(rngs, batch.regions.mask), _draw(rngs, batch.tokens.mask)
        negatives, kept = batch.negatives, drop_regions(batch.regions, regions < self.region_drop)
        return dataclasses.replace(
            batch,
            regions=close_gaps(kept) if batch.true_relations is None else kept,  # they have the old indices
            tokens=drop_words(batch.tokens, words < self.word_drop),
            negatives=None if negatives is None else self._drop_negative_words(negatives, rngs),
        )

    def _damage_edges(self, regions: Regions, epoch: int, captions: Sequence[int]) -> Regions:
        rngs = [np.random.default_rng([self.seed, _DAMAGE_STREAM, epoch, int(caption)]) for caption in captions]
        damages = [_DAMAGES[int(rng.integers(len(_DAMAGES)))] for rng in rngs]
        shares = [float(rng.random()) if rng.random() < self.edge_damage else 0.0 for rng in rngs]
        return damage_regions(regions, damages, shares, rngs)

    def _drop_negative_words(self, negatives: Negatives, rngs: Sequence[np.random.Generator]) -> Negatives:
        """Drop words of false captions at the same rate: a model must not tell them by their length."""
        words = _draw([rngs[caption] for caption in negatives.caption.tolist()], negatives.tokens.mask)
        return Negatives(drop_words(negatives.tokens, words < self.word_drop), negatives.caption)


def _draw(rngs: Sequence[np.random.Generator], mask: Tensor) -> Tensor:
    """Draw uniform numbers [B, n], in each row only as many as `mask` [B, n] marks: padding has no effect."""
    drawn = np.ones(mask.shape)
    for row, (rng, count) in enumerate(zip(rngs, mask.sum(dim=1).tolist(), strict=True)):
        drawn[row, :count] = rng.random(count)
    return torch.from_numpy(drawn)


def drop_words(tokens: Tokens, dropped: Tensor) -> Tokens:
    """Drop the word pieces marked in `dropped` [C, L] and close the gaps: the GRU needs a mask without gaps.

    The first piece always stays, so that encoders keep their special token and no caption becomes empty.
    """
    keep = tokens.mask & (~dropped | mark_first(tokens.mask))
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, : int(keep.sum(dim=1).max())]
    mask = keep.gather(1, order)
    states = tokens.states
    if states is not None:
        states = states.gather(1, order[..., None].expand(-1, -1, states.shape[2])).masked_fill(~mask[..., None], 0)
    return Tokens(tokens.ids.gather(1, order).masked_fill(~mask, 0), mask, states)


@dataclass(frozen=True)
class PlannedBatches(TorchDataset[Batch | HireError]):
    """Load the batch of a plan; a map-style data set for torch's DataLoader."""

    split: Split
    bank: CaptionBank
    augment: Augment
    negatives: NegativeBank | None = None

    def __getitem__(self, plan: BatchPlan) -> Batch | HireError:
        """Load the captions of `plan` and their images; caption i belongs to image i.

        An error is returned, because the DataLoader would put the traceback of its process into the message.
        """
        rows = plan.rows.tolist()
        try:
            regions = collate_regions([self.split.regions(int(self.split.owner[row])) for row in rows])
        except HireError as error:
            return error
        negatives = None if self.negatives is None else self.negatives.draw(plan.epoch, rows)
        batch = Batch(regions, self.bank.tokens(plan.rows), negatives=negatives)
        return self.augment(batch, plan.epoch, rows)


@dataclass(frozen=True)
class Loader:
    """Load the batches of an epoch.

    Args:
        sampler: draws the batches.
        batches: loads a batch.
        workers: loader processes; 0 loads in the training process.
    """

    sampler: CaptionSampler
    batches: PlannedBatches
    workers: int = 0

    def load_epoch(self, epoch: int, start: int = 0) -> Generator[tuple[BatchPlan, Batch]]:
        """Yield (plan, batch) for each batch of `epoch` from batch `start` on. Raise DataError for damaged data."""
        plans = self.sampler.plan_epoch(epoch, start)
        # DataLoader draws a seed for its workers at each start. It gets a separate generator, because a resumed run
        # starts it once more and would otherwise change torch's global random state.
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=plans,  # type: ignore[arg-type]
            num_workers=self.workers,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator().manual_seed(self.sampler.seed),
        )
        for plan, batch in zip(plans, loader, strict=True):
            if isinstance(batch, HireError):
                raise batch
            yield plan, batch
