"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_examples import TrainingExample, write_dataset  # type: ignore[import-not-found]


@pytest.fixture(scope="session")
def things_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set folder with 19 train and 7 dev images, 3 captions each."""
    return write_dataset(tmp_path_factory.mktemp("things") / "data")


@pytest.fixture
def training(things_dataset: Path, tmp_path: Path) -> TrainingExample:
    return TrainingExample(things_dataset, tmp_path / "run")
