"""Processes for the tests of flows: started, waited for, asked, and killed with all that they have started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 240  # seconds; the machine may be busy
CARRIED = ("flows", "hire_model", "expectations", "serving", "prefect.yaml", "prefect.toml", "pyproject.toml")
SMALL = [
    "model.preset=tiny",
    "train.epochs=2",
    "train.batch=16",
    "train.threads=1",
    "data.workers=1",  # forks within a flow
    "evaluate.bootstrap=50",
    "evaluate.examples=1",
    "gate.min_shuffle=0",
    "gate.max_ece=0",
    "gate.max_pair_ms=0",
    "gate.max_query_ms=0",
]
WORSE = [*SMALL, "train.epochs=1", "train.lr=1e-9", "train.warm_start=false"]  # the later one of a key counts


@dataclass(frozen=True)
class Servers:
    """Where Prefect and MLflow answer, and the environment of a process that is to use them."""

    prefect: str
    mlflow: str
    env: Mapping[str, str]

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON that Prefect's API gives; a POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.prefect}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """The flow's runs, the latest first."""
        return self.ask("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC"})

    def artifacts(self, key: str) -> list[dict[str, Any]]:
        """The artifacts of that key, the latest first."""
        return self.ask("artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})

    def logs(self, run: dict[str, Any]) -> str:
        """What a flow run and its tasks have logged."""
        time.sleep(3)  # logs travel in batches
        chosen = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.ask("logs/filter", chosen))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """The environment without what would lead to another server or other settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "HIRE_", "PREFECT"))}
    return kept | {"DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group that is killed in the end, whatever it has started."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(PATIENCE * 2):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text())


def await_that(happens: Callable[[], bool]) -> None:
    """Until it happens."""
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.5)


def command(
    servers: Servers, project: Path, *words: str, timeout: int = 4 * PATIENCE
) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` in the project's folder, with the servers."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=project, env=servers.env, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
