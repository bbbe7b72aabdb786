"""Run by test_distributed.py, once alone and once in two processes under torchrun: trains and leaves what came out."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from workshop import Workshop  # type: ignore[import-not-found]

from hire_model.errors import TrainingStopped
from hire_model.settings import Settings
from hire_model.training.batches import Augment, CaptionSampler, Loader, PlannedBatches
from hire_model.training.distributed import launch_fabric
from hire_model.training.loop import train_step
from hire_model.training.train_state import TrainState

STEPS = 4


def steps(workshop: Workshop, settings: Settings) -> dict[str, object]:
    """Losses, gradient norms and weights of the first steps, half of them with the hardest negatives."""
    fabric = launch_fabric(settings.train)
    model = workshop.model(settings)
    sampler = CaptionSampler(workshop.split().owner, settings.train.batch, 0, fabric.global_rank, fabric.world_size)
    loader = Loader(sampler, PlannedBatches(workshop.split(), workshop.bank(model), Augment(0, 0.2, 0.2)))
    state = TrainState(model, settings, fabric, workshop.out, "d1", len(sampler.draw_batches(0)))
    losses = []
    for plan, batch in list(loader.load_epoch(0))[:STEPS]:
        score_loss = train_step(state, plan, batch, hardest=plan.index >= STEPS // 2)
        losses.append((state.last_loss, score_loss))
    return {"losses": losses, "norm": state.meter.grad_norm, "weights": model.state_dict()}


def stopped_and_resumed(workshop: Workshop, settings: Settings) -> dict[str, object]:
    """A run whose last process is told to stop within the second epoch, and which is then resumed."""

    def on_step(step: int) -> None:
        if step == 12 and int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        workshop.fit(settings, on_step=on_step)
        raise AssertionError("the run was not stopped")
    except TrainingStopped as stopped:
        message = str(stopped)
    result = workshop.fit(settings, resume=True)
    return {"message": message, "history": [(r.loss, r.dev["rsum"]) for r in result.history]}


def main(data: str, out: str) -> None:
    torch.set_num_threads(1)
    workshop = Workshop(Path(data), Path(out))
    # Without dropout in the model: each process draws its own. Dropped regions and words stay, as these do not
    # depend on the number of processes. Batches of 7 make uneven shares, and captions' lengths differ.
    settings = workshop.settings(batch=7, epochs=3, dropout=0.0)
    found = {"steps": steps(workshop, settings), "run": stopped_and_resumed(workshop, settings)}
    torch.save(found, Path(out) / f"found-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
