"""Which captions make a batch. A plan is a pure function of (seed, epoch): to resume is to skip its first batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STREAM = 1  # keeps these draws apart from other uses of the same seed


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
    """Batches in which every image occurs at most once, so that no caption of the same image poses as a negative.

    An epoch goes in rounds: the captions of each image are shuffled; round k takes the k-th caption of every image that
    has one, in a new order, and is cut into batches. So an epoch holds every caption exactly once. A rest at the end of
    a round that is too short for negatives (fewer than 2 captions, or fewer than there are processes) joins the batch
    before it; a whole round that is too short - only where one image has more captions than all others - is left out.

    owner [M] int64: image of each caption; batch: captions in a whole batch, over all processes.
    """

    owner: np.ndarray
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def epoch(self, epoch: int, start: int = 0) -> list[BatchPlan]:
        """This process's shares of the batches of `epoch`, from batch `start` on."""
        batches = self.batches(epoch)
        return [self._share(epoch, index, batches[index]) for index in range(start, len(batches))]

    def batches(self, epoch: int) -> list[np.ndarray]:
        """All batches of `epoch`, as captions [n] int64: `batch` of them, the last fewer or, for a rest, a few more."""
        rng = np.random.default_rng([self.seed, _STREAM, epoch])
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

    def _share(self, epoch: int, index: int, batch: np.ndarray) -> BatchPlan:
        shares = np.array_split(batch, self.world)
        return BatchPlan(epoch, index, shares[self.rank], tuple(len(share) for share in shares))
