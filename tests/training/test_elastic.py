"""A training on two nodes survives the death of a process: torchrun restarts all, and they resume."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import killed_process  # type: ignore[import-not-found]
import pytest
import torch

from hire_model.errors import SettingsError
from hire_model.settings import resolve
from hire_model.training.distributed import read_job_id
from hire_model.workflows import train as workflow

HERE = Path(__file__).parent
# No dropout in the model: each process draws different masks.
SETTINGS = {
    "model.preset": "tiny", "model.dropout": "0", "model.input_dropout": "0", "data.test": "test", "train.epochs": "2",
    "train.batch": "8", "train.threads": "1", "train.device": "cpu", "evaluate.bootstrap": "0",
    "evaluate.examples": "0", "tracking.enabled": "false",
}  # fmt: skip


def start_node(port: int, data: Path, folder: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start torchrun for one of two nodes with one process each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=2"]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=job-1", "--local-addr=localhost"]
    options = [item for key, value in SETTINGS.items() for item in ("--set", f"{key}={value}")]
    script = [killed_process.__file__, str(folder / "killed"), "train", "--data", str(data), *options]
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    environ = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [*torchrun, *meeting, *script]
    with output.open("wb") as file:
        return subprocess.Popen(command, env=environ, cwd=folder, stdout=file, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_killed_process_changes_no_figure(tiny_dataset: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    files = [tmp_path / f"node-{number}.log" for number in range(2)]
    nodes = [start_node(port, tiny_dataset, tmp_path, file) for file in files]
    alone = {"data.path": str(tiny_dataset), "train.out": str(tmp_path / "alone")}
    torch.set_num_threads(1)  # as in the nodes: the closed-form start depends on it
    one = workflow.train(resolve("synthetic", SETTINGS | alone, environ={}))
    codes = [node.wait(timeout=200) for node in nodes]
    outputs = [file.read_text() for file in files]
    assert codes == [0, 0], "\n".join(outputs)
    assert (tmp_path / "killed").exists(), "no process was killed"
    out = tmp_path / "runs" / "latest"
    assert sum(output.count("epoch 1/2: loss") for output in outputs) == 1, "the first epoch was not repeated"
    assert sum(output.count("epoch 2/2: loss") for output in outputs) == 1, "only the first process reports"
    history = json.loads((out / "history.json").read_text())
    expected = json.loads((tmp_path / "alone" / "history.json").read_text())
    for epoch, alone_epoch in zip(history, expected, strict=True):
        assert epoch["loss"] == pytest.approx(alone_epoch["loss"], abs=1e-5)
        assert epoch["dev"] == pytest.approx(alone_epoch["dev"])
    assert one is not None
    assert json.loads((out / "figures.json").read_text())["rsum"] == pytest.approx(one.result.rsum)
    assert len(list((tmp_path / "runs").glob("2*"))) == 1 and not (out / workflow.JOB_FILE).exists()


def test_a_restart_that_would_not_find_its_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert read_job_id() == ""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(SettingsError, match="--rdzv-id=NAME"):
        read_job_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-1")
    assert read_job_id() == "job-1"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(SettingsError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        read_job_id()
