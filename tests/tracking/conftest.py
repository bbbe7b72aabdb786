"""One SQLite store for all tracking tests (making one takes seconds), and MLflow's own state put back after each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hire_model.settings import TrackingSettings


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def tracking(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingSettings]:
    """Settings of a store of its own; the working folder is beside it, as SQLite's artifacts go to ./mlruns."""
    import mlflow

    monkeypatch.chdir(store)
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    before = mlflow.get_tracking_uri()
    yield TrackingSettings(uri=f"sqlite:///{store}/mlflow.db", experiment="tests", model_name="hire-test")
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
    mlflow.tracking.fluent._active_experiment_id = None


@pytest.fixture
def server(tmp_path: Path, tracking: TrackingSettings) -> Iterator[TrackingSettings]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")} | {"DO_NOT_TRACK": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "kept")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, tmp_path / "log")
        yield tracking.model_copy(update={"uri": f"http://127.0.0.1:{port}"})
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # nothing in it is kept, and a busy machine makes a farewell long
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(960):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    pytest.fail(log.read_text())
