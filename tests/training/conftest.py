"""The fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from workshop import Workshop, write_dataset  # type: ignore[import-not-found]


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set folder: 19 train and 7 dev images, 3 captions each."""
    return write_dataset(tmp_path_factory.mktemp("things") / "data")


@pytest.fixture
def workshop(things: Path, tmp_path: Path) -> Workshop:
    return Workshop(things, tmp_path / "run")
