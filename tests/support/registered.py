"""What the fixture `registered_model` of conftest.py gives, and how it comes to be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from hire_model.settings import Settings


@dataclass(frozen=True)
class RegisteredModel:
    """A tiny trained model that is version 1, the challenger, of `hire` in a store of its own."""

    settings: Settings
    version: str
    folder: Path
    dataset: Path


def register(dataset: Path, place: Path, changes: dict[str, str]) -> RegisteredModel:
    """Train on `dataset` for an epoch, and register in a store within `place`. MLflow's own state is put back."""
    import mlflow

    from hire_model.settings import resolve
    from hire_model.workflows.train import train

    overrides = {
        "model.preset": "tiny",
        "data.path": str(dataset),
        "train.epochs": "1",
        "train.batch": "8",
        "train.threads": "1",
        "train.out": str(place / "run"),
        "evaluate.bootstrap": "0",
        "evaluate.examples": "0",
        "tracking.uri": f"sqlite:///{place}/mlflow.db",
    }
    resolved = resolve("synthetic", overrides | changes, environ={})
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in [name for name in os.environ if name.startswith("MLFLOW")]:
            patch.delenv(name)
        trained = train(resolved, name="tiny")
    mlflow.set_tracking_uri(before)
    mlflow.tracking.fluent._active_experiment_id = None
    assert trained is not None
    return RegisteredModel(resolved.settings, "1", trained.model, dataset)
