"""Kill each command at every rename and every commit. Nothing is lost, and nothing half-done is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from registered import RegisteredModel, train_and_register

SCRIPT = Path(__file__).with_name("kill_scenarios.py")
ROOT = SCRIPT.parents[2]
EXPECTED = {  # a point that must be among those of each command
    "data": "exchange of data",
    "gallery": "rename to gallery",
    "gallery-overwrite": "rename to manifest.json",
    "gallery-add": "rename to manifest.json",
    "gallery-remove": "rename to manifest.json",
    "train": "commit",
    "gate": "commit",
    "promote": "commit",
    "package": "rename to hire.mar",
    "evaluate": "rename to 000004.npz",
    "serve": "rename to current",
}


@pytest.fixture(scope="module")
def killed_model(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RegisteredModel:
    """Return a registered model for this file alone: killed gates leave decisions among its artifacts."""
    return train_and_register(tiny_dataset, tmp_path_factory.mktemp("killed"), {"data.test": "test"})


@pytest.mark.slow
@pytest.mark.timeout(3600)  # 60 points of `train`, and some repetitions, on a busy machine
@pytest.mark.parametrize("command", EXPECTED)
def test_a_kill_at_any_point_loses_nothing_and_the_repeated_command_succeeds(
    killed_model: RegisteredModel, tmp_path: Path, command: str
) -> None:
    uri = killed_model.settings.tracking.uri
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")} | {
        "HIRE_KILL_STORE": uri.removeprefix("sqlite:///"),
        "HIRE_KILL_DATA": str(killed_model.dataset),
        "HIRE_KILL_RUN": str(killed_model.folder.parent),
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, SCRIPT, command, tmp_path], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    points = json.loads(done.stdout.splitlines()[-1])
    print(f"{command}: killed at {len(points)} points: {', '.join(points)}")
    assert EXPECTED[command] in points
