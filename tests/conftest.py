"""Fixtures for all tests, and rules that mark and group tests.

`make test` runs two processes. All tests of a group run in the same process, so that shared fixtures are built once.
A group is a folder that starts servers, or a single file elsewhere. The longest groups start first, so that both
processes end at about the same time. `make test-fast` skips tests marked `live` or `slow`. A test that uses one of
SLOW_FIXTURES is marked `slow`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded; one thread per process is faster here

import hire_model  # noqa: F401  # import before torch, because it sets the spin count of OpenMP

if TYPE_CHECKING:
    from browser import Tab
    from registered import RegisteredModel

ROOT = Path(__file__).parent.parent
SERVER_FOLDERS = ("flows", "serving", "tracking")
LONGEST = (
    "flows", "serving", "test_next_steps.py", "faults/test_kills.py", "test_readme.py", "tracking",
    "data/images/test_image_import.py", "test_setup.py",
)  # fmt: skip
SLOW_FIXTURES = {"registered_model"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, assign each test to its group, and sort the longest groups first."""
    groups: dict[str, list[pytest.Item]] = {group: [] for group in LONGEST}
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
    """Return the folder of real data. Skip the test if there is none."""
    folder = Path(os.environ.get("HIRE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "README.md").is_file():
        pytest.skip(
            f"no real data in {folder.name}/; put it beside the checkout, or set HIRE_SHARED_DATA to its folder"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate relational scenes: 24 train, 8 dev and 8 test images."""
    from hire_model.data.synthetic import generate

    out = tmp_path_factory.mktemp("data") / "tiny"
    generate(out, train=24, dev=8, test=8, seed=0)
    return out


@pytest.fixture(scope="session")
def registered_model(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RegisteredModel:
    """Train and register one tiny model for all tests that need a registered version."""
    from registered import train_and_register

    return train_and_register(tiny_dataset, tmp_path_factory.mktemp("registered"), {"data.test": "test"})


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Run a browser with one tab for the tests of a module. Skip them if there is no browser."""
    from browser import find_chromium, run_browser

    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed: sudo apt-get install -y chromium")
    with run_browser(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab
