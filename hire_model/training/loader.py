"""Batches from disk, in the training process or in workers: the same batches either way."""

from __future__ import annotations

import signal
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from hire_model.batch import Batch
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.training.augment import Augment
from hire_model.training.sampler import BatchPlan, CaptionSampler


@dataclass(frozen=True)
class PlannedBatches(TorchDataset[Batch]):
    """A map from plans to batches; all that is random in a batch follows from its plan."""

    split: Split
    bank: CaptionBank
    augment: Augment

    def __getitem__(self, plan: BatchPlan) -> Batch:
        """The share of a batch that `plan` names: caption i belongs to image i."""
        regions = collate_regions([self.split.regions(int(self.split.owner[row])) for row in plan.rows])
        owner = torch.arange(len(plan.rows))
        return self.augment(Batch(regions, self.bank.tokens(plan.rows), owner), plan.epoch, plan.rows.tolist())


@dataclass(frozen=True)
class Loader:
    """Goes through an epoch from any batch on.

    workers: loader processes; 0 loads in the training process.
    """

    sampler: CaptionSampler
    batches: PlannedBatches
    workers: int = 0

    def epoch(self, epoch: int, start: int = 0) -> Generator[tuple[BatchPlan, Batch]]:
        """(plan, batch) for each batch of `epoch` from batch `start` on."""
        plans = self.sampler.epoch(epoch, start)
        # The loader draws a seed for its workers when it starts: from a generator of its own, or the number of starts
        # (one more after a resume) would move torch's global state.
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=plans,  # type: ignore[arg-type]
            num_workers=self.workers,
            worker_init_fn=_leave_signals_to_the_loop,
            generator=torch.Generator().manual_seed(self.sampler.seed),
        )
        yield from zip(plans, loader, strict=True)


def _leave_signals_to_the_loop(worker: int) -> None:
    """Ctrl-C and many schedulers signal all processes of a group; a worker that died of it would break the step."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
