"""AdamW, its parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.autograd.graph import increment_version
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hire_model.model.warm_start import WARM_STARTED
from hire_model.settings import TrainSettings
from hire_model.training.distributed import pick_device

ENCODER_PREFIX = "text.encoder."
_FINAL_FACTOR = 0.01  # factor on lr at the end of the cosine schedule


def group_parameters(model: nn.Module, settings: TrainSettings) -> list[dict[str, object]]:
    """Group the trained parameters by learning rate and weight decay, without empty groups.

    A tuned text encoder has lr * encoder_lr_factor. Warm-started projections have lr * warm_lr_factor and no decay,
    which would undo the warm start. Biases, gains and embeddings have no decay either.
    """
    factors = {"hire": 1.0, "encoder": settings.encoder_lr_factor, "warm": settings.warm_lr_factor}
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
    """Return AdamW over `group_parameters`. On a CPU one pass over the weights does the whole step."""
    on_cpu = pick_device(settings) == "cpu"
    optimizer = AdamW(group_parameters(model, settings), fused=True if on_cpu else None)
    if on_cpu:
        optimizer.register_step_post_hook(_record_changes)
    return optimizer


def _record_changes(optimizer: Optimizer, *_: object) -> None:
    """Raise the version of each weight. The fused step does not, and the compiled kernel would keep older weights."""
    increment_version([weight for group in optimizer.param_groups for weight in group["params"]])


def make_lr_factor(settings: TrainSettings, total: int) -> Callable[[int], float]:
    """Return a function from a step (0 ... total - 1) to the factor on lr: linear warm-up, then train.schedule.

    `step` multiplies by 0.1 from half of all steps on; `cosine` decreases to 0.01 at the last step.
    """
    warmup_steps = math.ceil(settings.warmup * total)

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        if settings.schedule == "step":
            return warmup * (0.1 if 2 * step >= total else 1.0)
        done = min(1.0, max(0, step - warmup_steps) / max(1, total - 1 - warmup_steps))
        return warmup * (_FINAL_FACTOR + (1 - _FINAL_FACTOR) * (1 + math.cos(math.pi * done)) / 2)

    return factor


def make_scheduler(adamw: AdamW, settings: TrainSettings, total: int, done: int = 0) -> LambdaLR:
    """Return the schedule after `done` steps. It depends only on the step, so checkpoints do not save it.

    If train.epochs changes on resume, `total` changes and the learning rate follows the new schedule at once.
    """
    if done:  # LambdaLR needs the base rate to start at a later step
        for group in adamw.param_groups:
            group.setdefault("initial_lr", group["lr"])
    return LambdaLR(adamw, make_lr_factor(settings, total), last_epoch=done - 1)
