"""AdamW, its parameter groups, and the learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from hire_model.model.warm_start import WARM_STARTED
from hire_model.settings import TrainSettings

ENCODER_PREFIX = "text.encoder."
WARM_FACTOR = 0.1  # share of lr at which warm-started projections learn
_FLOOR = 0.01  # share of lr at which the cosine ends


def group_parameters(model: nn.Module, settings: TrainSettings) -> list[dict[str, object]]:
    """Trained parameters by learning rate and decay; empty groups are left out.

    A tuned text encoder learns at lr * encoder_lr_factor, warm-started projections at lr * WARM_FACTOR and without
    decay, as they would otherwise forget where they started; no decay for biases, gains and embeddings either.
    """
    factors = {"hire": 1.0, "encoder": settings.encoder_lr_factor, "warm": WARM_FACTOR}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = _classify(name, settings)
            decays = parameter.ndim > 1 and id(parameter) not in tables and kind != "warm"
            groups.setdefault((kind, decays), []).append(parameter)
    return [
        {
            "name": f"{kind}{'' if decays else ', no decay'}",
            "params": members,
            "lr": settings.lr * factors[kind],
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (kind, decays), members in sorted(groups.items())
    ]


def _classify(name: str, settings: TrainSettings) -> str:
    if name.startswith(ENCODER_PREFIX):
        return "encoder"
    return "warm" if settings.warm_start and name.startswith(WARM_STARTED) else "hire"


def make_optimizer(model: nn.Module, settings: TrainSettings) -> AdamW:
    """Return AdamW over `group_parameters`."""
    return AdamW(group_parameters(model, settings))


def make_lr_factor(settings: TrainSettings, total: int) -> Callable[[int], float]:
    """Return the function from a step (0 ... total - 1) to the factor on lr: a linear warm-up, then the schedule.

    step: a tenth from half of all steps on; cosine: down to a hundredth at the last step.
    """
    warm = math.ceil(settings.warmup * total)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warm + 1))
        if settings.schedule == "step":
            return rise * (0.1 if 2 * step >= total else 1.0)
        done = min(1.0, max(0, step - warm) / max(1, total - 1 - warm))
        return rise * (_FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * done)) / 2)

    return factor


def make_scheduler(adamw: AdamW, settings: TrainSettings, total: int, done: int = 0) -> LambdaLR:
    """Return the schedule after `done` steps. Its only state is the step, so a checkpoint holds nothing of it.

    After a resume with other train.epochs, `total` is another and the rate follows the new schedule at once.
    """
    if done:  # LambdaLR needs the base rate where it starts at a later step
        for group in adamw.param_groups:
            group.setdefault("initial_lr", group["lr"])
    return LambdaLR(adamw, make_lr_factor(settings, total), last_epoch=done - 1)
