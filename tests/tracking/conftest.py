"""One SQLite store for all tracking tests (making one takes seconds), and MLflow's own state put back after each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hire_model.settings import TrackingSettings


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def tracking(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingSettings]:
    """Settings of a store of its own; the working folder is beside it, as SQLite's artifacts go to ./mlruns."""
    import mlflow

    monkeypatch.chdir(store)
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    before = mlflow.get_tracking_uri()
    yield TrackingSettings(uri=f"sqlite:///{store}/mlflow.db", experiment="tests", model_name="hire-test")
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
    mlflow.tracking.fluent._active_experiment_id = None
