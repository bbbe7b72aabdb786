"""Two processes over gloo give the same losses, gradients, weights and metrics as one, and stop together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def run_in_two_processes(data: Path, out: Path) -> list[dict[str, Any]]:
    out.mkdir()
    path = os.pathsep.join([str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environ = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, two_processes.__file__, str(data), str(out)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(out / f"result-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def results(
    things_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("processes")
    (out / "one").mkdir()
    two_processes.main(str(things_dataset), str(out / "one"))
    one = torch.load(out / "one" / "result-0.pt", weights_only=True)
    return one, run_in_two_processes(things_dataset, out / "two")


def test_losses_and_gradients_equal_those_of_one_process(results: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    one, two = results
    assert len(one["steps"]["losses"]) == 4
    for rank in two:
        torch.testing.assert_close(
            torch.tensor(rank["steps"]["losses"]), torch.tensor(one["steps"]["losses"]), rtol=0, atol=1e-5
        )
        assert rank["steps"]["norm"] == pytest.approx(one["steps"]["norm"], rel=1e-5)


def test_weights_equal_those_of_one_process(results: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    one, two = results
    for name, weight in one["steps"]["weights"].items():
        torch.testing.assert_close(two[0]["steps"]["weights"][name], weight, rtol=0, atol=1e-5, msg=f"{name} differs")
        assert torch.equal(two[0]["steps"]["weights"][name], two[1]["steps"]["weights"][name]), name


def test_a_signal_to_one_process_stops_both_and_the_run_can_be_resumed(
    results: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    one, two = results
    assert "Stopped by SIGTERM in epoch 2 of 3, after batch 3 of 9" in one["run"]["message"]
    assert "Stopped by a signal to another process in epoch 2 of 3, after batch 3 of 9" in two[0]["run"]["message"]
    assert "Stopped by SIGTERM in epoch 2 of 3, after batch 3 of 9" in two[1]["run"]["message"]
    assert two[0]["run"]["history"] == two[1]["run"]["history"]
    assert torch.tensor(two[0]["run"]["history"]).numpy() == pytest.approx(
        torch.tensor(one["run"]["history"]).numpy(), abs=1e-3
    )
