"""Killed without warning in the middle of a training; the same command goes on, to the same model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_servers import PATIENCE, SMALL, Servers

pytestmark = pytest.mark.live
EPOCHS = "train.epochs=3"


def _history(out: Path) -> list[dict[str, object]]:
    timed = ("seconds", "samples_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in json.loads((out / "history.json").read_text())]


def test_a_killed_flow_goes_on_to_the_same_model(servers: Servers, project: Path, scenes: Path, tmp_path: Path) -> None:
    settings = [*SMALL, EPOCHS, "tracking.model_name=interrupted"]
    words = [sys.executable, "-m", "flows", "train", "--recipe", "synthetic", "--data", str(scenes)]
    words += [word for setting in [*settings, "train.out=runs/interrupted"] for word in ("--set", setting)]
    out, log = project / "runs" / "interrupted", tmp_path / "log"
    with log.open("w") as said:
        process = subprocess.Popen(
            words, cwd=project, env=servers.env, stdout=said, stderr=said, start_new_session=True
        )
        try:
            for _ in range(PATIENCE * 10):
                assert process.poll() is None, log.read_text()
                if (out / "last.pt").is_file() and "epoch 2/3: " in log.read_text():
                    break
                time.sleep(0.1)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "model").exists(), log.read_text()

    done = subprocess.run(words, cwd=project, env=servers.env, capture_output=True, text=True, timeout=600, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Going on from the checkpoint" in said and "epoch 1/3" not in said and "epoch 3/3" in said

    # in a process with as many threads: the last bits of the closed-form start depend on their number
    words = [sys.executable, "-m", "hire_model", "train", "--recipe", "synthetic", "--data", str(scenes)]
    whole = [*settings, f"train.out={tmp_path / 'whole'}", "tracking.enabled=false"]
    words += [word for setting in whole for word in ("--set", setting)]
    subprocess.run(words, cwd=project, env=servers.env, check=True, timeout=600)
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert _history(out) == _history(tmp_path / "whole")
