"""A trained model from settings and splits: what a training and each trial of an ablation have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hire_model.data.chosen import Splits
from hire_model.data.loading import CaptionBank
from hire_model.data.store import Split
from hire_model.evaluation import protocols
from hire_model.model.build import build
from hire_model.model.captions import caption_bank
from hire_model.model.hire import Hire
from hire_model.model.warm_start import warm_start
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import EvaluateSettings, Settings
from hire_model.training.distributed import own_device
from hire_model.training.loop import fit
from hire_model.training.record import EpochRecord, FitResult
from hire_model.training.seed import seed_all


def started(settings: Settings, train: Split, warm: bool) -> tuple[Hire, CaptionBank]:
    """A model before its first step, and the captions of `train` as it reads them; warm: with the closed-form start."""
    seed_all(settings.train.seed)
    model = build(settings.model, train).to(own_device(settings.train))
    bank = caption_bank(model, train.texts)
    if warm:
        warm_start(model, train, bank, settings.train)
    return model, bank


def fitted(
    settings: Settings,
    splits: Splits,
    out: Path,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> tuple[Hire, FitResult]:
    """Build, start, and train; the model holds the weights of its best dev epoch. Raises as `training.loop.fit`."""
    model, train_bank = started(settings, splits.train, warm=settings.train.warm_start and not resume)
    dev_bank = caption_bank(model, splits.dev.texts)

    def dev(candidate: Hire) -> dict[str, float]:
        matrix = compute_similarity(candidate, splits.dev, dev_bank, settings.evaluate.budget_mb << 20)
        metrics = protocols.judge(matrix, splits.dev.owner, bootstrap=0).metrics()
        return {name.removeprefix("full/"): value for name, value in metrics.items()}

    digest = splits.train.dataset.manifest.digest
    found = fit(
        model, splits.train, train_bank, settings, dev=dev, out=out, digest=digest, resume=resume, on_epoch=on_epoch
    )
    return model.eval(), found


def matrix_of(model: Hire, split: Split, settings: EvaluateSettings) -> np.ndarray:
    """The similarity matrix [N, M] of a split, its captions read as the model reads them."""
    return compute_similarity(model, split, caption_bank(model, split.texts), settings.budget_mb << 20)
