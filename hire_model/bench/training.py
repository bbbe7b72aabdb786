"""Measure training steps: Hire's, and a plain one that scores all padded pairs at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from hire_model.batch import Batch, EncodedImages, EncodedTexts, Scores
from hire_model.bench.timing import alternate
from hire_model.data.loading import CaptionBank
from hire_model.data.store import Split
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.settings import Settings
from hire_model.training.batches import Augment, BatchPlan, CaptionSampler, Loader, PlannedBatches
from hire_model.training.distributed import launch_fabric, seed_everything
from hire_model.training.loop import train_step
from hire_model.training.losses import compute_loss
from hire_model.training.optim import make_optimizer
from hire_model.training.train_state import TrainState

Item = tuple[BatchPlan, Batch]
Step = Callable[[Item], None]


def make_model(settings: Settings, split: Split) -> Hire:
    """Return the untrained model of the seed."""
    seed_everything(settings.train.seed)
    return build_model(settings.model, split)


def make_loader(settings: Settings, split: Split) -> Loader:
    """Return the loader of a training on `split`."""
    train, bank = settings.train, make_bank(settings, split)
    augment = Augment(train.seed, train.region_drop, train.word_drop)
    return Loader(
        CaptionSampler(split.owner, train.batch, train.seed),
        PlannedBatches(split, bank, augment),
        settings.data.workers,
    )


def make_bank(settings: Settings, split: Split) -> CaptionBank:
    """Return the captions of `split` as word pieces."""
    return build_caption_bank(make_model(settings, split), split.texts)


def score_padded(model: Hire, images: EncodedImages, texts: EncodedTexts) -> Scores:
    """Score all pairs at once, padded to the longest item, as the definition in hire_model/model/interaction.py."""
    v, t = model.prepare_sides(images, texts)
    return model._combine(model.interaction(v[None], t[None])[0], images.summary @ texts.summary.T)


def make_plain_step(settings: Settings, split: Split, device: torch.device) -> Step:
    """Return a step with forward, backward and AdamW only: no blocks, checks, clipping or Fabric."""
    model = make_model(settings, split).to(device).train()
    adamw = make_optimizer(model, settings.train)

    def step(item: Item) -> None:
        batch = item[1].to(device)
        scores = score_padded(model, model.encode_image(batch.regions), model.encode_text(batch.tokens))
        loss = compute_loss(scores.total, settings.train, hardest=False)
        if scores.globals is not None:
            loss = loss + settings.train.global_loss * compute_loss(scores.globals, settings.train, hardest=False)
        adamw.zero_grad()
        loss.backward()
        adamw.step()

    return step


def make_step(settings: Settings, split: Split, out: Path, batches: int) -> Step:
    """Return Hire's training step; `out` is a folder for checkpoints, which are not written."""
    state = TrainState(make_model(settings, split), settings, launch_fabric(settings.train), out, "", batches)

    def step(item: Item) -> None:
        train_step(state, *item, hardest=False)

    return step


def measure_training(settings: Settings, split: Split, steps: int, out: Path) -> dict[str, float]:
    """Measure the median CPU seconds of both steps on the same batches, and `ratio_to_plain` of their times."""
    items = list(itertools.islice(make_loader(settings, split).load_epoch(0), steps + 1))
    device = torch.device("cpu")

    def follow(step: Step) -> Callable[[], None]:
        remaining: Iterator[Item] = itertools.cycle(items)
        return lambda: step(next(remaining))

    seconds = alternate(
        {
            "plain": follow(make_plain_step(settings, split, device)),
            "hire": follow(make_step(settings, split, out, len(items))),
        },
        steps,
    )
    return {
        "ratio_to_plain": seconds["plain"] / seconds["hire"],
        "seconds_per_step": seconds["hire"],
        "plain_seconds_per_step": seconds["plain"],
    }
