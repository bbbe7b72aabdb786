"""The state that changes during training; save and restore it."""

from __future__ import annotations

import math
import time
from pathlib import Path

from lightning_fabric import Fabric

from hire_model.model.hire import Hire
from hire_model.settings import Settings
from hire_model.settings.fingerprint import select_weight_settings
from hire_model.training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    capture_rng,
    digest_frozen_weights,
    get_trained_weights,
    load_weights,
    restore_rng,
    save_weights,
    set_trained_weights,
)
from hire_model.training.distributed import Peers, seed_everything
from hire_model.training.losses import CollapseDetector, Objective
from hire_model.training.optim import make_optimizer, make_scheduler
from hire_model.training.record import EpochRecord, Meter


class TrainState:
    """The model, its optimizer and the progress of the training.

    Args:
        model: is moved to the device of `fabric` and trained in place.
        settings: all settings.
        fabric: device, precision and processes.
        out: folder of the checkpoints.
        digest: digest of the data set's version.
        batches: number of batches in an epoch.

    Attributes:
        is_first_process: whether this is the first process, which writes files and prints.
        objective: module that computes the loss, wrapped by Fabric.
        epoch: number of the epoch of the next batch.
        batch: number of the next batch in the epoch.
        steps: optimizer steps done.
        last_loss: loss of the last step.
        saved_at: `time.monotonic()` of the last checkpoint.
    """

    def __init__(self, model: Hire, settings: Settings, fabric: Fabric, out: Path, digest: str, batches: int) -> None:
        self.model, self.settings, self.fabric, self.out, self.digest = model, settings, fabric, out, digest
        self.batches, self.peers = batches, Peers(fabric)
        self.is_first_process = fabric.is_global_zero
        train = settings.train
        model.to(fabric.device)
        self.frozen = digest_frozen_weights(model)
        self.adamw = make_optimizer(model, train)
        self.objective, self.optimizer = fabric.setup(Objective(model, train, self.peers), self.adamw)
        self.total_steps = train.epochs * batches
        self.scheduler = make_scheduler(self.adamw, train, self.total_steps)
        self.epoch = self.batch = self.steps = 0
        self.meter, self.history, self.best_epoch = Meter(), list[EpochRecord](), 0
        self.collapse, self.last_loss = CollapseDetector(), math.nan
        self.saved_at = time.monotonic()
        seed_everything(train.seed, fabric.global_rank)

    @property
    def lr(self) -> float:
        """Learning rate of the next step; a tuned encoder's is lower."""
        return next(group["lr"] for group in self.adamw.param_groups if group["name"].startswith("hire"))

    def end_epoch(self, metrics: dict[str, float]) -> EpochRecord:
        """Record the epoch, save its weights if they are the best so far, and advance to the next epoch."""
        record = EpochRecord.from_meter(self.epoch, self.meter, metrics)
        if not self.history or metrics["rsum"] > self.history[self.best_epoch].dev["rsum"]:
            self.best_epoch = self.epoch
            if self.is_first_process:
                save_weights(self.model, self.out / BEST)
        self.history.append(record)
        self.epoch, self.batch, self.meter = self.epoch + 1, 0, Meter()
        return record

    def load_best(self) -> None:
        """Load the best weights into the model."""
        self.fabric.barrier()
        load_weights(self.model, self.out / BEST)
        self.model.eval()

    def save(self) -> None:
        """Write the checkpoint. Call it only between steps: gradients are not saved."""
        rng = self.peers.gather_objects(capture_rng())
        if self.is_first_process:
            Checkpoint(
                model=get_trained_weights(self.model),
                optimizer=self.adamw.state_dict(),
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
        self.saved_at = time.monotonic()

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint. Raises HireError if it belongs to other settings or data."""
        saved.check(self.settings, self.digest, self.out / LAST)
        saved.check_frozen(self.frozen, self.out / LAST)
        set_trained_weights(self.model, saved.model)
        self.adamw.load_state_dict(saved.optimizer)
        self.epoch, self.batch, self.steps = saved.epoch, saved.batch, saved.step
        self.meter, self.history, self.best_epoch = saved.meter, saved.history, saved.best_epoch
        self.scheduler = make_scheduler(self.adamw, self.settings.train, self.total_steps, self.steps)
        if len(saved.rng) == self.fabric.world_size:
            restore_rng(saved.rng[self.fabric.global_rank])
