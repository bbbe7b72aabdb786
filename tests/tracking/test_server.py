"""Against a real `mlflow server`: log, register, fetch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from hire_model.data.store import Dataset
from hire_model.model import artifact
from hire_model.model.build import build
from hire_model.settings import TrackingSettings, resolve
from hire_model.tracking import registry
from hire_model.tracking.run import track

pytestmark = pytest.mark.live


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
        os.killpg(process.pid, 15)
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    pytest.fail(log.read_text())


def test_log_register_and_load_back(server: TrackingSettings, tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    split = dataset.split("test")
    settings = resolve(overrides={"model.preset": "tiny"}, environ={}).settings
    folder = artifact.save(build(settings.model, dataset.split("train")), tmp_path / "model")
    with track(server, "over http") as run:
        run.metrics({"dev/rsum": 3.0}, step=1)
        run.dataset(dataset.folder, "scenes", dataset.manifest.digest, "training")
        run.artifact(folder / "config.json", "evaluation")
        registered = registry.log_model(folder, [(split.regions(0), split.texts[0])], server, {"full.rsum": "3"})
    assert (registered.uri, registered.version) == ("models:/hire-test@challenger", "1")
    assert mlflow.get_run(run.run_id).data.metrics["dev/rsum"] == 3.0
    back = registry.fetch(registered.uri, server)
    assert (back / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    answer = mlflow.pyfunc.load_model(registered.uri).predict(registry.pair_table([(split.regions(0), "a dog")]))
    assert len(answer) == 1
