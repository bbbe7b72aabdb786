"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training_examples import TrainingExample  # type: ignore[import-not-found]

from hire_model.settings import TrainSettings
from hire_model.training.optim import group_parameters, make_lr_factor, make_optimizer, make_scheduler


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Module()
        self.text.encoder = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        self.text.project = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_parameters_are_grouped_by_learning_rate_and_decay() -> None:
    model = Toy()
    groups = {g["name"]: g for g in group_parameters(model, TrainSettings(lr=1e-3, weight_decay=0.1))}
    assert set(groups) == {"hire", "hire, no decay", "encoder", "encoder, no decay"}
    assert [p.shape for p in groups["encoder"]["params"]] == [(4, 4)]
    assert len(groups["encoder, no decay"]["params"]) == 4  # table, bias, gain, shift
    assert groups["encoder"]["lr"] == pytest.approx(1e-4) and groups["hire"]["lr"] == 1e-3
    assert groups["hire"]["weight_decay"] == 0.1 and groups["hire, no decay"]["weight_decay"] == 0


def test_each_trained_parameter_is_in_exactly_one_group(training: TrainingExample) -> None:
    settings = training.settings()
    model = training.model(settings)
    grouped = [id(p) for g in group_parameters(model, settings.train) for p in g["params"]]  # type: ignore[attr-defined]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained) and len(set(grouped)) == len(grouped)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed = {id(p) for g in group_parameters(model, settings.train) if g["weight_decay"] for p in g["params"]}  # type: ignore[attr-defined]
    assert tables and not tables & decayed


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("step", {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 14: 1.0, 15: 0.1, 29: 0.1}),
        ("cosine", {0: 0.25, 3: 1.0, 16: 0.505, 29: 0.01}),
    ],
)
def test_the_schedule_has_a_warm_up_and_falls_to_its_end(schedule: Any, expected: dict[int, float]) -> None:
    factor = make_lr_factor(TrainSettings(schedule=schedule, warmup=0.1), 30)
    assert {step: factor(step) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
@pytest.mark.parametrize("total", [1, 2, 7])
def test_short_runs_have_a_positive_learning_rate(schedule: Any, total: int) -> None:
    factor = make_lr_factor(TrainSettings(schedule=schedule, warmup=0.5), total)
    assert all(0 < factor(step) <= 1 for step in range(total + 2))


def test_a_schedule_that_starts_late_continues_the_same_schedule() -> None:
    def list_rates(start: int) -> list[list[float]]:
        settings = TrainSettings(schedule="cosine")
        adamw = make_optimizer(Toy(), settings)
        scheduler = make_scheduler(adamw, settings, 20, start)
        rates = []
        for _ in range(start, 20):
            rates.append([group["lr"] for group in adamw.param_groups])
            adamw.step()
            scheduler.step()
        return rates

    torch.testing.assert_close(list_rates(8), list_rates(0)[8:], rtol=0, atol=0)
