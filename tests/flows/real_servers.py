"""Start, call and stop the real processes that the tests of flows use."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # seconds, enough for a busy machine
LINKED = ("flows", "hire_model", "expectations", "serving", "prefect.yaml", "prefect.toml", "pyproject.toml")
SMALL = [
    "model.preset=tiny",
    "train.epochs=3",
    "train.batch=16",
    "train.threads=1",
    "data.workers=1",  # a forked process within a flow
    "evaluate.bootstrap=50",
    "evaluate.examples=1",
    "gate.min_shuffle=0",
    "gate.max_ece=0",
    "gate.max_pair_ms=0",
    "gate.max_query_ms=0",
]
WORSE = [*SMALL, "train.epochs=1", "train.lr=1e-9", "train.warm_start=false"]  # the last value of a key counts


@dataclass(frozen=True)
class Servers:
    """The URLs of Prefect's API and of MLflow, and the environment of processes that use them."""

    prefect: str
    mlflow: str
    env: Mapping[str, str]

    def call(self, path: str, body: Any = None) -> Any:
        """Return the JSON answer of Prefect's API to a GET, or to a POST of `body`.

        Like Prefect's client, retry after status 503: another process may lock the SQLite database.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.prefect}/{path}", data, {"Content-Type": "application/json"})
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    return json.load(response)
            except HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > end:
                    raise
            time.sleep(0.5)

    def copy_database(self, home: Path) -> None:
        """Copy Prefect's database to the Prefect home of another server, which then starts without migrations."""
        home.mkdir(parents=True, exist_ok=True)
        paths = Path(self.env["PREFECT_HOME"], "prefect.db"), home / "prefect.db"
        with closing(sqlite3.connect(paths[0])) as source, closing(sqlite3.connect(paths[1])) as target:
            source.backup(target)

    def start_run(self, deployment: str, **parameters: object) -> str:
        """Schedule a run of a deployment for the worker; return its id."""
        key = self.call(f"deployments/name/{deployment}")["id"]
        return str(self.call(f"deployments/{key}/create_flow_run", {"parameters": parameters})["id"])

    def list_runs(self, flow: str) -> list[dict[str, Any]]:
        """Return the runs of a flow, the latest first."""
        return self.call("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC"})

    def list_artifacts(self, key: str) -> list[dict[str, Any]]:
        """Return the artifacts with `key`, the latest first."""
        return self.call("artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})

    def wait_for_log(self, run: dict[str, Any], *texts: str) -> None:
        """Wait until the log of a flow run and its tasks contains `texts`; Prefect sends log lines in batches."""
        chosen = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"}

        def is_complete() -> bool:
            log = "\n".join(line["message"] for line in self.call("logs/filter", chosen))
            return all(text in log for text in texts)

        wait_until(is_complete, timeout=30)


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that name servers or settings; Prefect's delays are short."""
    names = ("MLFLOW", "HIRE_", "PREFECT")
    return {key: value for key, value in os.environ.items() if not key.startswith(names)} | {
        "DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }


@contextmanager
def start_process(
    module: Sequence[str], env: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m MODULE` in `folder`; at the end, kill it and all processes that it started."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # ending in order takes seconds, and no test reads what it leaves
        process.wait()


def run_module(
    module: Sequence[str], env: Mapping[str, str], folder: Path, timeout: int = 4 * TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE` in `folder` and wait for its end."""
    command = [sys.executable, "-m", *module]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def wait_for_url(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `url` answers; fail with the log if `process` ends before."""

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            return False

    wait_until(answers, log=log)


def wait_until(condition: Callable[[], bool], timeout: float = TIMEOUT, log: Path | None = None) -> None:
    """Check `condition` five times a second until it is true; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not true after {timeout} s\n{log.read_text() if log else ''}")
        time.sleep(0.2)
