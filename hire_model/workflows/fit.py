"""Fit a model: what a training and each trial of an ablation have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hire_model.data.loading import CaptionBank
from hire_model.data.splits import Splits
from hire_model.data.store import Split
from hire_model.evaluation import protocols
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.model.warm_start import warm_start
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import Settings
from hire_model.training.distributed import pick_local_device, seed_everything
from hire_model.training.loop import fit
from hire_model.training.record import EpochRecord, FitResult


def fit_model(
    settings: Settings,
    splits: Splits,
    out: Path,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> tuple[Hire, FitResult]:
    """Build and train a model; return it with the weights of its best dev epoch. Raises as `training.loop.fit`."""
    model, train_bank = prepare_model(settings, splits.train, warm=settings.train.warm_start and not resume)
    dev_bank = build_caption_bank(model, splits.dev.texts)

    def evaluate_dev(candidate: Hire) -> dict[str, float]:
        matrix = compute_similarity(candidate, splits.dev, dev_bank, settings.evaluate.budget_mb << 20)
        metrics = protocols.evaluate_matrix(matrix, splits.dev.owner, bootstrap=0).metrics()
        return {name.removeprefix("full/"): value for name, value in metrics.items()}

    result = fit(
        model,
        splits.train,
        train_bank,
        settings,
        dev=evaluate_dev,
        out=out,
        digest=splits.train.dataset.manifest.digest,
        resume=resume,
        on_epoch=on_epoch,
    )
    return model.eval(), result


def prepare_model(settings: Settings, train: Split, warm: bool) -> tuple[Hire, CaptionBank]:
    """Build an untrained model and tokenise the captions of `train`. warm: initialise it with the closed-form start."""
    seed_everything(settings.train.seed)
    model = build_model(settings.model, train).to(pick_local_device(settings.train))
    bank = build_caption_bank(model, train.texts)
    if warm:
        warm_start(model, train, bank, settings.train)
    return model, bank
