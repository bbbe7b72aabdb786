"""What several tests need: the real data where it is, and a small data set made once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hire_model  # noqa: F401  # before torch, for what it says to OpenMP

if TYPE_CHECKING:
    from registered import RegisteredModel

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("HIRE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder.name}/; put it beside the checkout or name it in HIRE_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Relational scenes: 24 train, 8 dev, 8 test images."""
    from hire_model.data.synthetic import generate

    out = tmp_path_factory.mktemp("data") / "tiny"
    generate(out, train=24, dev=8, test=8, seed=0)
    return out


@pytest.fixture(scope="session")
def registered_model(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RegisteredModel:
    """Trained once for all tests that need a version in a registry."""
    from registered import register

    return register(tiny_dataset, tmp_path_factory.mktemp("registered"), {"data.test": "test"})
