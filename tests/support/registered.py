"""Train and register a tiny model, for the fixture `registered_model` in conftest.py."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from hire_model.settings import Settings


@dataclass(frozen=True)
class RegisteredModel:
    """A tiny trained model: version 1 of `hire`, the challenger, in a new store."""

    settings: Settings
    version: str
    folder: Path
    dataset: Path


def train_and_register(dataset: Path, folder: Path, changes: dict[str, str]) -> RegisteredModel:
    """Train on `dataset` for one epoch and register the model in a store in `folder`. Restore the state of MLflow."""
    import mlflow

    from hire_model.settings import resolve
    from hire_model.workflows.train import train

    overrides = {
        "model.preset": "tiny",
        "data.path": str(dataset),
        "train.epochs": "1",
        "train.batch": "8",
        "train.threads": "1",
        "train.out": str(folder / "run"),
        "evaluate.bootstrap": "0",
        "evaluate.examples": "0",
        "tracking.uri": f"sqlite:///{folder}/mlflow.db",
    }
    resolved = resolve("synthetic", overrides | changes, environ={})
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("MLFLOW")]:
            patch.delenv(name)
        outcome = train(resolved, name="tiny")
    mlflow.set_tracking_uri(before)
    mlflow.tracking.fluent._active_experiment_id = None
    assert outcome is not None
    return RegisteredModel(resolved.settings, "1", outcome.model, dataset)
