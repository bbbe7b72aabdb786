"""Stores for the tracking tests: one SQLite store and one `mlflow server` per session, as each needs seconds."""

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
from cryptography.fernet import Fernet

from hire_model.settings import TrackingSettings


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the SQLite store."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def tracking(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingSettings]:
    """Use the SQLite store, in its folder because artifacts go to ./mlruns; restore MLflow's state afterwards."""
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


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an `mlflow server` with its own store and return its address."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")} | {"DO_NOT_TRACK": "true"}
    env |= {"MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http"}
    env |= {"MLFLOW_WEBHOOK_CACHE_TTL": "1", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode()}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_healthy(f"{url}/health", process, folder / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its store is not needed again, and an orderly stop can be slow
        process.wait(60)


@pytest.fixture
def server(server_url: str, tracking: TrackingSettings) -> TrackingSettings:
    """Use the `mlflow server`. The tests share it, so each test needs its own model name."""
    return tracking.model_copy(update={"uri": server_url})


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(960):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    pytest.fail(log.read_text())
