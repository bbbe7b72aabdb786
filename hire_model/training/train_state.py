"""A run: the model, its optimizer and how far they are; what a step does, what is saved and restored."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hire_model.batch import Batch
from hire_model.errors import TrainingStopped
from hire_model.model.hire import Hire
from hire_model.settings import Settings
from hire_model.settings.fingerprint import select_weight_settings
from hire_model.training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    frozen_digest,
    load_weights,
    save_weights,
    set_trained,
    trained,
)
from hire_model.training.distributed import Peers
from hire_model.training.objective import Objective, Share
from hire_model.training.optim import optimizer, scheduler
from hire_model.training.record import EpochRecord, Meter
from hire_model.training.sampler import BatchPlan
from hire_model.training.seed import restore_rng, rng_states, seed_all


class Run:
    """Everything that changes while training.

    epoch, batch: what is trained on next; steps: optimizer steps done; batches: of an epoch
    """

    def __init__(self, model: Hire, settings: Settings, fabric: Fabric, out: Path, digest: str, batches: int) -> None:
        self.model, self.settings, self.fabric, self.out, self.digest = model, settings, fabric, out, digest
        self.batches, self.peers = batches, Peers(fabric)
        train = settings.train
        model.to(fabric.device)
        self.frozen = frozen_digest(model)
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(train.ema)) if train.ema else None
        self.objective = Objective(model, train, self.peers)
        adamw = optimizer(model, train)
        self.wrapped, self.optimizer = fabric.setup(self.objective, adamw)
        self.total = train.epochs * math.ceil(batches / train.accumulate)
        self.scheduler = scheduler(adamw, train, self.total)
        self.adamw = adamw
        self.epoch = self.batch = self.steps = 0
        self.meter, self.history, self.best_epoch = Meter(), list[EpochRecord](), 0
        self.pending: list[tuple[int, Tensor]] = []
        seed_all(train.seed, fabric.global_rank)

    @property
    def judged(self) -> Hire:
        """The model that is evaluated and kept: the averaged one with train.ema."""
        return self.model if self.averaged is None else cast(Hire, self.averaged.module)

    def backward(self, plan: BatchPlan, batch: Batch, hardest: bool, parts: int, last: bool) -> None:
        """Add a batch's gradient, divided by the `parts` batches of a step; `last`: of these."""
        self.wrapped.train()
        share = Share(batch.to(self.fabric.device, non_blocking=True), plan.sizes)
        with self.fabric.no_backward_sync(self.wrapped, enabled=not last):
            loss, score, single = self.wrapped(share, hardest)
            self.fabric.backward(loss / parts)
        self.pending.append((sum(plan.sizes), torch.stack([loss, score, single]).detach()))

    def step(self) -> list[tuple[float, float, float]]:
        """Clip and step; the `Terms` of each batch since the last step.

        Raises TrainingStopped before anything is changed if a loss or the gradient is not finite.
        """
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=self.settings.train.clip, error_if_nonfinite=False
        )
        assert norm is not None
        values = torch.cat(
            [*(terms for _, terms in self.pending), norm[None]]
        ).tolist()  # the step's one wait for a GPU
        if not all(math.isfinite(value) for value in values):
            raise TrainingStopped(self._not_finite(values))
        self.meter.lr = next(g["lr"] for g in self.adamw.param_groups if g["name"].startswith("hire"))
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        losses = [(values[i], values[i + 1], values[i + 2]) for i in range(0, len(values) - 1, 3)]
        for (samples, _), terms in zip(self.pending, losses, strict=True):
            self.meter.add(samples, *terms)
        self.meter.steps += 1
        self.meter.grad_norm += values[-1]
        self.steps, self.batch = self.steps + 1, self.batch + len(self.pending)
        self.pending = []
        return losses

    def _not_finite(self, values: list[float]) -> str:
        what = "gradient" if math.isfinite(sum(values[:-1])) else "loss"
        last = self.out / LAST
        kept = f"The last good checkpoint is {last}" if last.is_file() else "There is no checkpoint yet"
        if (self.out / BEST).is_file():
            kept += f", the best weights are in {self.out / BEST}"
        return (
            f"The {what} is not finite (NaN or infinite) at step {self.steps + 1}, epoch {self.epoch + 1}, batch "
            f"{self.batch + 1} of {self.batches}. {kept}. Check the data with 'hire data validate', then start again "
            "with a lower train.lr, a smaller train.clip or train.precision=fp32."
        )

    def evaluate(self, dev: Callable[[Hire], dict[str, float]]) -> dict[str, float]:
        """The metrics of the judged model, found by the first process and told to all."""
        metrics: dict[str, float] = {}
        if self.fabric.is_global_zero:
            self.judged.eval()
            with torch.no_grad():
                metrics = dict(dev(self.judged))
        return self.fabric.broadcast(metrics)

    def end_epoch(self, metrics: dict[str, float]) -> EpochRecord:
        """Record the epoch that has ended, keep its weights if they are the best so far, and turn to the next."""
        record = EpochRecord.of(self.epoch, self.meter, metrics)
        if not self.history or metrics["rsum"] > self.history[self.best_epoch].dev["rsum"]:
            self.best_epoch = self.epoch
            if self.fabric.is_global_zero:
                save_weights(self.judged, self.out / BEST)
        self.history.append(record)
        self.epoch, self.batch, self.meter = self.epoch + 1, 0, Meter()
        return record

    def load_best(self) -> None:
        """Put the best weights into the model."""
        self.fabric.barrier()
        load_weights(self.model, self.out / BEST)
        self.model.eval()

    def save(self) -> None:
        """Write the checkpoint; only between steps, as gradients are not saved."""
        rng = self.peers.everyone(rng_states())
        if self.fabric.is_global_zero:
            Checkpoint(
                model=trained(self.model),
                optimizer=self.adamw.state_dict(),
                averaged=None if self.averaged is None else trained(self.averaged),
                rng=rng,
                epoch=self.epoch,
                batch=self.batch,
                step=self.steps,
                meter=self.meter,
                history=self.history,
                best_epoch=self.best_epoch,
                settings=select_weight_settings(self.settings),
                digest=self.digest,
                frozen=self.frozen,
            ).save(self.out / LAST)
        self.fabric.barrier()

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint. Raises HireError if it belongs to other settings or data."""
        saved.check(self.settings, self.digest, self.out / LAST)
        saved.check_frozen(self.frozen, self.out / LAST)
        set_trained(self.model, saved.model)
        self.adamw.load_state_dict(saved.optimizer)
        if self.averaged is not None and saved.averaged is not None:
            set_trained(self.averaged, saved.averaged)
        self.epoch, self.batch, self.steps = saved.epoch, saved.batch, saved.step
        self.meter, self.history, self.best_epoch = saved.meter, saved.history, saved.best_epoch
        self.scheduler = scheduler(self.adamw, self.settings.train, self.total, self.steps)
        if len(saved.rng) == self.fabric.world_size:
            restore_rng(saved.rng[self.fabric.global_rank])
