"""The training loop: `fit` calls `train_epoch` for each epoch, which calls `train_step` for each batch."""

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
from hire_model.errors import RESUME_COMMAND, DataError, TrainingStopped
from hire_model.model.hire import Hire
from hire_model.progress import format_duration, show_progress
from hire_model.settings import Settings
from hire_model.training.batches import Augment, BatchPlan, CaptionSampler, Loader, PlannedBatches
from hire_model.training.checkpoint import BEST, LAST, Checkpoint, set_aside_previous
from hire_model.training.distributed import launch_fabric
from hire_model.training.losses import BatchShare, compute_collapsed_loss, format_collapse_warning
from hire_model.training.negative_bank import NegativeBank
from hire_model.training.record import EpochRecord, FitResult
from hire_model.training.signals import StopRequest
from hire_model.training.train_state import TrainState

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
    negatives: NegativeBank | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    on_step: Callable[[int], None] = lambda step: None,
) -> FitResult:
    """Train `model` in place; at the end it has the weights of the epoch with the best dev metric `rsum`.

    With several processes, only the first calls `dev` and `on_epoch`.

    Args:
        model: the model to train.
        train_split: images and captions to train on.
        train_bank: the captions of `train_split`.
        settings: all settings.
        dev: evaluates the model, which is in evaluation mode, and returns at least `rsum`.
        out: folder for checkpoints.
        digest: digest of the data set's version.
        resume: continue from the checkpoint in `out`.
        negatives: false captions of the captions of `train_split`.
        on_epoch: called with the record of each epoch.
        on_step: called with the number of each optimizer step.

    Raises:
        TrainingStopped: after Ctrl-C, SIGTERM, a full disk, or a loss or gradient that is not finite. The message names
            the last good checkpoint.
        HireError: `resume` finds no checkpoint, or one with other settings or data.
        DataError: the split has too few images.
    """
    train = settings.train
    if train.threads:
        torch.set_num_threads(train.threads)
    fabric = launch_fabric(train)
    out, resume = fabric.broadcast((out, resume))  # the first process has chosen them
    sampler = CaptionSampler(train_split.owner, train.batch, train.seed, fabric.global_rank, fabric.world_size)
    augment = Augment(train.seed, train.region_drop, train.word_drop, train.edge_damage)
    loader = Loader(sampler, PlannedBatches(train_split, train_bank, augment, negatives), settings.data.workers)
    batches = len(sampler.draw_batches(0))
    if not batches:
        raise DataError(
            f"{train_split.dataset.folder}: split '{train_split.name}' has {len(train_split.captions)} captions of "
            f"{len(train_split.images)} images; a batch needs 2 images with captions for each process."
        )
    state = TrainState(model, settings, fabric, out, digest, batches)
    start = _evaluate_start(state, dev)
    if resume:
        state.restore(Checkpoint.load(out / LAST))
    elif fabric.is_global_zero:
        set_aside_previous(out)
    started, first_epoch = time.monotonic(), state.epoch
    with StopRequest() as stop, _use_deterministic_algorithms(fabric.device):
        while state.epoch < train.epochs:
            train_epoch(state, loader, stop, on_step)
            record = state.end_epoch(evaluate(state, dev))
            state.save()
            if state.is_first_process:
                _print(_format_epoch(state, record, (time.monotonic() - started) / (state.epoch - first_epoch), start))
                on_epoch(record)
            if state.peers.any_of(stop.name is not None)[0] and state.epoch < train.epochs:
                raise _make_stopped(state, stop, f"after epoch {state.epoch}")
        state.load_best()
    best = state.history[state.best_epoch]
    return FitResult(best.epoch, best.dev, state.history, out / BEST)


def train_epoch(state: TrainState, loader: Loader, stop: StopRequest, on_step: Callable[[int], None]) -> None:
    """Train from the next batch to the end of the epoch, and write a checkpoint when one is due."""
    train = state.settings.train
    hardest = state.epoch >= train.sum_epochs
    before = time.monotonic()
    with contextlib.closing(_show_progress(state, loader.load_epoch(state.epoch, state.batch))) as batches:
        for plan, batch in batches:
            score_loss = train_step(state, plan, batch, hardest)
            on_step(state.steps)
            _warn_of_collapse(state, score_loss, sum(plan.sizes), hardest)
            state.meter.seconds += time.monotonic() - before
            due = time.monotonic() - state.saved_at > 60 * train.checkpoint_minutes
            stopped, due = state.peers.any_of(stop.name is not None, due)
            if stopped or due:
                state.save()
            if stopped:
                where = f"in epoch {state.epoch + 1}"
                raise _make_stopped(state, stop, where, f", after batch {state.batch} of {state.batches}")
            before = time.monotonic()


def train_step(state: TrainState, plan: BatchPlan, batch: Batch, hardest: bool) -> float:
    """Do one optimizer step and return the loss of the final score.

    Raises TrainingStopped if a loss or the gradient is not finite; the weights are then unchanged.
    """
    state.objective.train()
    share = BatchShare(batch.to(state.fabric.device, non_blocking=True), plan.sizes)
    losses = state.objective(share, hardest)  # forward: loss, score_loss, global_loss
    state.fabric.backward(losses[0])
    norm = state.fabric.clip_gradients(
        state.objective, state.optimizer, max_norm=state.settings.train.clip, error_if_nonfinite=False
    )
    assert norm is not None
    values = torch.stack([*losses, norm]).tolist()  # waits for a GPU
    if not all(math.isfinite(value) for value in values):
        raise TrainingStopped(_describe_not_finite(state, values))
    state.meter.lr = state.lr
    state.optimizer.step()
    state.scheduler.step()
    state.optimizer.zero_grad()
    state.meter.add(sum(plan.sizes), *values)
    state.steps, state.batch, state.last_loss = state.steps + 1, state.batch + 1, values[0]
    return values[1]


def evaluate(state: TrainState, dev: Dev) -> dict[str, float]:
    """Compute the dev metrics in the first process, and return them in all processes."""
    metrics: dict[str, float] = {}
    if state.is_first_process:
        state.model.eval()
        with torch.no_grad():
            metrics = dict(dev(state.model))
    return state.fabric.broadcast(metrics)


def _evaluate_start(state: TrainState, dev: Dev) -> float:
    """Return and print the dev rsum of the towers alone; -inf without towers. Call it before a checkpoint is read."""
    if state.model.towers is None:
        return -math.inf
    start = evaluate(state, dev)["rsum"]
    if state.is_first_process:
        _print(f"start: dev rsum {start:.1f}, of the towers alone")
    return start


def _warn_of_collapse(state: TrainState, score_loss: float, size: int, hardest: bool) -> None:
    train = state.settings.train
    if train.loss == "infonce" or hardest:
        collapsed_loss = compute_collapsed_loss(train, size, hardest)
        if state.collapse.add(score_loss, collapsed_loss) and state.is_first_process:
            _print(format_collapse_warning(train.loss, collapsed_loss))


def _make_stopped(state: TrainState, stop: StopRequest, where: str, batch: str = "") -> TrainingStopped:
    return TrainingStopped(
        f"Stopped by {stop.name or 'a signal to another process'} {where} of {state.settings.train.epochs}{batch}. "
        f"The checkpoint is {state.out / LAST}; to continue from it, run {RESUME_COMMAND}."
    )


def _describe_not_finite(state: TrainState, values: list[float]) -> str:
    quantity = "gradient" if math.isfinite(sum(values[:-1])) else "loss"
    last, best = state.out / LAST, state.out / BEST
    files = f"The last good checkpoint is {last}" if last.is_file() else "There is no checkpoint yet"
    if best.is_file():
        files += f", the best weights are in {best}"
    return (
        f"The {quantity} is not finite (NaN or infinite) at step {state.steps + 1}, epoch {state.epoch + 1}, batch "
        f"{state.batch + 1} of {state.batches}. {files}. Check the data with 'hire data validate', then start again "
        "with a lower train.lr, a smaller train.clip or train.precision=fp32."
    )


def _show_progress(state: TrainState, batches: Steps) -> Steps:
    if not state.is_first_process:
        yield from batches
        return
    description = f"epoch {state.epoch + 1}/{state.settings.train.epochs}"
    yield from show_progress(batches, description, state.batches - state.batch, lambda: f"loss {state.last_loss:.3f}")


def _format_epoch(state: TrainState, record: EpochRecord, per_epoch: float, start: float) -> str:
    """Return the line that reports an epoch.

    Args:
        state: of the training.
        record: of the epoch.
        per_epoch: seconds per epoch, including evaluation and saving.
        start: dev rsum before training, from `_evaluate_start`.
    """
    epochs = state.settings.train.epochs
    best = " (best so far)" if state.best_epoch == record.epoch else ""
    if record.dev["rsum"] < start:
        best += f" (below the start, {start:.1f})"
    return (
        f"epoch {record.epoch + 1}/{epochs}: loss {record.loss:.3f}, lr {record.lr:.2e}, "
        f"{record.samples_per_second:,.0f} captions/s, dev rsum {record.dev['rsum']:.1f}{best}, "
        f"{format_duration(per_epoch * (epochs - state.epoch))} left"
    )


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _use_deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """On a CPU, use only operations whose result does not depend on the order of threads, so that resume is exact."""
    if device.type != "cpu":
        yield
        return
    deterministic: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # costs time and only helps to find bugs
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        deterministic.fill_uninitialized_memory = before[1]
