"""A training that was killed: the same command resumes it, and the model is the same as without the interruption."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from real_servers import SMALL, Servers, run_module, start_process, wait_until

pytestmark = pytest.mark.live


def read_history(out: Path) -> list[dict[str, object]]:
    """Return the figures of each epoch without its times."""
    rows = json.loads((out / "history.json").read_text())
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in rows]


def test_a_killed_flow_resumes_and_gives_the_same_model(
    retrained: dict[str, Any], servers: Servers, project: Path, scenes: Path, tmp_path: Path
) -> None:
    """The model to compare with is that of `retrained`, which had the same settings and no interruption."""
    out, uninterrupted, log = project / "runs" / "interrupted", project / "runs" / "latest", tmp_path / "log"
    command = ["hire_model", "flow", "train", "--recipe", "synthetic", "--data", str(scenes)]
    for setting in [*SMALL, "tracking.model_name=interrupted", "train.out=runs/interrupted"]:
        command += ["--set", setting]
    with start_process(command, servers.env, project, log) as process:

        def is_in_epoch_2() -> bool:
            assert process.poll() is None, log.read_text()
            return (out / "last.pt").is_file() and "epoch 2/3: " in log.read_text()

        wait_until(is_in_epoch_2, log=log)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (out / "model").exists(), log.read_text()

    result = run_module(command, servers.env, project)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "Resuming from the checkpoint" in output and "epoch 1/3" not in output and "epoch 3/3" in output
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    assert read_history(out) == read_history(uninterrupted)
