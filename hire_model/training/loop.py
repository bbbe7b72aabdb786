"""The training loop: epochs, steps, and when to judge, save and stop. What it reads and writes is handed in."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from hire_model.batch import Batch
from hire_model.data.loading import CaptionBank
from hire_model.data.store import Split
from hire_model.errors import GO_ON, DataError, TrainingStopped
from hire_model.model.hire import Hire
from hire_model.progress import format_duration, show_progress
from hire_model.settings import Settings
from hire_model.training.augment import Augment
from hire_model.training.checkpoint import BEST, LAST, Checkpoint, keep_previous
from hire_model.training.distributed import engine
from hire_model.training.loader import Loader, PlannedBatches
from hire_model.training.record import EpochRecord, FitResult
from hire_model.training.sampler import BatchPlan, CaptionSampler
from hire_model.training.train_state import Run
from hire_model.training.watch import CollapseWatch, StopRequest, collapse_advice

Dev = Callable[[Hire], dict[str, float]]
Steps = Generator[tuple[BatchPlan, Batch]]


def fit(
    model: Hire,
    train_split: Split,
    train_bank: CaptionBank,
    settings: Settings,
    *,
    dev: Dev,
    out: Path,
    digest: str,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    on_step: Callable[[int], None] = lambda step: None,
) -> FitResult:
    """Train `model` in place; in the end it holds the weights of the epoch with the best dev['rsum'].

    train_bank: the captions of `train_split`, row by row; dev: judges the model it is given, which is in evaluation
    mode, and must return at least 'rsum'; out: folder for checkpoints; digest: version of the data set; on_epoch and
    on_step are told of each epoch's record and each optimizer step's number. Of several processes only the first calls
    `dev` and `on_epoch`.

    Raises TrainingStopped after Ctrl-C, SIGTERM, a full disk, or a loss or gradient that is no number; the message
    names the last good checkpoint. Raises HireError if `resume` finds no checkpoint, or one of other settings or data;
    DataError if there are too few images to train on.
    """
    train = settings.train
    if train.threads:
        torch.set_num_threads(train.threads)
    fabric = engine(train)
    sampler = CaptionSampler(train_split.owner, train.batch, train.seed, fabric.global_rank, fabric.world_size)
    augment = Augment(train.seed, train.region_drop, train.word_drop, train.edge_drop)
    loader = Loader(sampler, PlannedBatches(train_split, train_bank, augment), settings.data.workers)
    batches = len(sampler.batches(0))
    if not batches:
        raise DataError(
            f"{train_split.dataset.folder}: split '{train_split.name}' has {len(train_split.captions)} captions of "
            f"{len(train_split.images)} images; a batch needs 2 images with captions for each process."
        )
    run = Run(model, settings, fabric, out, digest, batches)
    if resume:
        run.restore(Checkpoint.load(out / LAST))
    elif fabric.is_global_zero:
        keep_previous(out)
    with StopRequest() as stop, _repeatable(fabric.device):
        return _Loop(run, loader, dev, stop, on_epoch, on_step).all_epochs()


class _Loop:
    """The control flow around a `Run`."""

    def __init__(
        self,
        run: Run,
        loader: Loader,
        dev: Dev,
        stop: StopRequest,
        on_epoch: Callable[[EpochRecord], None],
        on_step: Callable[[int], None],
    ) -> None:
        self.run, self.loader, self.dev, self.stop = run, loader, dev, stop
        self.on_epoch, self.on_step = on_epoch, on_step
        self.settings, self.first = run.settings.train, run.fabric.is_global_zero
        self.collapse = CollapseWatch()
        self.started = self.saved = time.monotonic()
        self.joined = run.epoch
        self.loss = math.nan

    def all_epochs(self) -> FitResult:
        while self.run.epoch < self.settings.epochs and not self._out_of_patience():
            self._epoch()
            self._judge()
        self.run.load_best()
        best = self.run.history[self.run.best_epoch]
        early = len(self.run.history) < self.settings.epochs
        return FitResult(best.epoch, best.dev, self.run.history, self.run.out / BEST, early)

    def _out_of_patience(self) -> bool:
        waited = len(self.run.history) - 1 - self.run.best_epoch
        return bool(self.settings.patience) and bool(self.run.history) and waited >= self.settings.patience

    def _epoch(self) -> None:
        """Train from the run's batch to the end of its epoch."""
        run, group = self.run, self.settings.accumulate
        hardest = run.epoch >= self.settings.sum_epochs
        before = time.monotonic()
        with contextlib.closing(self._shown(self.loader.epoch(run.epoch, run.batch))) as batches:
            for plan, batch in batches:
                parts = min(group, run.batches - plan.index // group * group)
                last = (plan.index + 1) % group == 0 or plan.index + 1 == run.batches
                run.backward(plan, batch, hardest, parts, last)
                if last:
                    self.loss = self._step(plan, hardest)
                    run.meter.seconds += time.monotonic() - before
                    self._between_steps()
                    before = time.monotonic()

    def _step(self, plan: BatchPlan, hardest: bool) -> float:
        """One optimizer step; the batch's mean loss."""
        losses = self.run.step()
        self.on_step(self.run.steps)
        if self.settings.loss == "infonce" or hardest:
            stuck = self.run.objective.stuck(sum(plan.sizes), hardest)
            for _, score, _ in losses:
                if self.collapse.add(score, stuck):
                    self._say(collapse_advice(self.settings.loss, stuck))
        return sum(loss for loss, _, _ in losses) / len(losses)

    def _between_steps(self) -> None:
        """Stop, or write a checkpoint, if that is due in any process."""
        run = self.run
        due = time.monotonic() - self.saved > 60 * self.settings.checkpoint_minutes
        stop, save = run.peers.any(self.stop.name is not None, due)
        if not stop and not save:
            return
        run.save()
        self.saved = time.monotonic()
        if stop:
            raise self._stopped(f"in epoch {run.epoch + 1}", f", after batch {run.batch} of {run.batches}")

    def _judge(self) -> None:
        """End the epoch: dev metrics, the best weights, the record, a checkpoint."""
        run = self.run
        metrics = run.evaluate(self.dev)
        record = run.end_epoch(metrics)
        run.save()
        self.saved = time.monotonic()
        if self.first:
            self._say(self._line(record))
            self.on_epoch(record)
        if run.peers.any(self.stop.name is not None)[0] and run.epoch < self.settings.epochs:
            raise self._stopped(f"after epoch {run.epoch}")

    def _stopped(self, where: str, batch: str = "") -> TrainingStopped:
        return TrainingStopped(
            f"Stopped by {self.stop.name or 'a signal to another process'} {where} of {self.settings.epochs}{batch}. "
            f"The checkpoint is {self.run.out / LAST}; run {GO_ON} to go on from it."
        )

    def _shown(self, batches: Steps) -> Steps:
        if not self.first:
            yield from batches
            return
        description = f"epoch {self.run.epoch + 1}/{self.settings.epochs}"
        yield from show_progress(
            batches, description, self.run.batches - self.run.batch, lambda: f"loss {self.loss:.3f}"
        )

    def _say(self, words: str) -> None:
        if self.first:
            print(words, file=sys.stderr, flush=True)

    def _line(self, record: EpochRecord) -> str:
        per_epoch = (time.monotonic() - self.started) / (self.run.epoch - self.joined)  # dev and saving included
        left = format_duration(per_epoch * (self.settings.epochs - self.run.epoch))
        best = " (best so far)" if self.run.best_epoch == record.epoch else ""
        return (
            f"epoch {record.epoch + 1}/{self.settings.epochs}: loss {record.loss:.3f}, lr {record.lr:.2e}, "
            f"{record.samples_per_second:,.0f} captions/s, dev rsum {record.dev['rsum']:.1f}{best}, {left} left"
        )


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU only operations whose result does not depend on the order of threads, as resume is exact there."""
    if device.type != "cpu":
        yield
        return
    deterministic: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # costs time, and guards only against defects
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        deterministic.fill_uninitialized_memory = before[1]
