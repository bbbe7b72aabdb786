"""Fixtures shared by all tests, and how tests are marked and grouped.

`make test` runs two processes. A group of tests always runs in one process, so that its fixtures are built once: each
folder that starts servers is a group, and elsewhere each file. `make test-fast` leaves out tests marked `live` or
`slow`; a test is slow if it uses one of SLOW_FIXTURES or says so itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded: one thread per process is faster here

import hire_model  # noqa: F401  # before torch: it sets OpenMP's spin count

if TYPE_CHECKING:
    from registered import RegisteredModel

ROOT = Path(__file__).parent.parent
SERVER_FOLDERS = ("flows", "serving", "tracking")  # in this order: the longest group starts first
SLOW_FIXTURES = {"registered_model"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests and assign each test to its group; server groups come first."""
    groups: dict[str, list[pytest.Item]] = {folder: [] for folder in SERVER_FOLDERS}
    for item in items:
        path = item.path.relative_to(ROOT / "tests")
        group = path.parts[0] if path.parts[0] in SERVER_FOLDERS else str(path)
        item.add_marker(pytest.mark.xdist_group(group))
        groups.setdefault(group, []).append(item)
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    items[:] = [item for group in groups.values() for item in group]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data, or skip."""
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
    """Train and register one tiny model for all tests that need a registered version."""
    from registered import register

    return register(tiny_dataset, tmp_path_factory.mktemp("registered"), {"data.test": "test"})
