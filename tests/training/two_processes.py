"""Train and write the results to a file; test_distributed.py calls `main`, and runs this file in two processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from training_examples import TrainingExample  # type: ignore[import-not-found]

from hire_model.errors import TrainingStopped
from hire_model.settings import Settings
from hire_model.training.batches import Augment, CaptionSampler, Loader, PlannedBatches
from hire_model.training.distributed import launch_fabric
from hire_model.training.loop import train_step
from hire_model.training.train_state import TrainState

STEPS = 4


def train_steps(training: TrainingExample, settings: Settings) -> dict[str, object]:
    """Return losses, gradient norms and weights of the first steps; the second half uses the hardest negatives."""
    fabric = launch_fabric(settings.train)
    model = training.model(settings)
    sampler = CaptionSampler(training.split().owner, settings.train.batch, 0, fabric.global_rank, fabric.world_size)
    loader = Loader(sampler, PlannedBatches(training.split(), training.bank(model), Augment(0, 0.2, 0.2)))
    state = TrainState(model, settings, fabric, training.out, "d1", len(sampler.draw_batches(0)))
    losses = []
    for plan, batch in list(loader.load_epoch(0))[:STEPS]:
        score_loss = train_step(state, plan, batch, hardest=plan.index >= STEPS // 2)
        losses.append((state.last_loss, score_loss))
    return {"losses": losses, "norm": state.meter.grad_norm, "weights": model.state_dict()}


def stop_and_resume(training: TrainingExample, settings: Settings) -> dict[str, object]:
    """Send SIGTERM to the last process in the second epoch, then resume the run."""

    def on_step(step: int) -> None:
        if step == 12 and int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        training.fit(settings, on_step=on_step)
        raise AssertionError("the run was not stopped")
    except TrainingStopped as stopped:
        message = str(stopped)
    result = training.fit(settings, resume=True)
    return {"message": message, "history": [(r.loss, r.dev["rsum"]) for r in result.history]}


def main(data: str, out: str) -> None:
    torch.set_num_threads(1)
    training = TrainingExample(Path(data), Path(out))
    # No dropout in the model, because each process draws different masks. Dropped regions and words do not depend on
    # the number of processes. Batches of 7 make shares of different sizes.
    settings = training.settings(batch=7, epochs=3, dropout=0.0)
    results = {"steps": train_steps(training, settings), "run": stop_and_resume(training, settings)}
    torch.save(results, Path(out) / f"result-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
