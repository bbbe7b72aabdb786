"""Find the address of a server. Start one in a subprocess and wait until it answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.address import find_front
from serving.process import Server
from serving.tokens import KEYS

START_S = 300


@dataclass(frozen=True)
class Endpoint:
    """Address of a server, and its key file if it requires a token."""

    address: str
    keys: Path | None = None

    def get_token(self) -> str:
        return json.loads(self.keys.read_text())["inference"]["key"] if self.keys else ""

    def make_headers(self) -> dict[str, str]:
        token = {"Authorization": f"Bearer {self.get_token()}"} if self.keys else {}
        return {"Content-Type": "application/json"} | token


def find_endpoint(server: Server) -> Endpoint:
    """Return the front of a server that `hire serve` started."""
    front = find_front(server.folder.parent)
    assert front is not None
    return Endpoint(front.address, front.folder / KEYS)


def read_metrics(port: int, *parts: str) -> str:
    """Return /metrics once it contains each of `parts`. Workers write their figures once a second."""
    end = time.monotonic() + 20
    while True:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
        missing = [part for part in parts if part not in text]
        if not missing:
            return text
        assert time.monotonic() < end, f"{missing} not in {text}"
        time.sleep(0.1)


@contextmanager
def run_server(
    module: str, options: list[str], folder: Path, endpoint: Endpoint, variables: dict[str, str]
) -> Iterator[Endpoint]:
    """Run `python -m MODULE OPTIONS` in `folder` until the block ends. Yield when the server answers."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")} | variables
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow starts uvicorn through PATH
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PATH": path}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options], cwd=folder, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_ready(process, endpoint, folder / "log")
        yield endpoint
    finally:
        for stop_signal in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, stop_signal)
                process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], endpoint: Endpoint, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{endpoint.address}/ping", headers=endpoint.make_headers(), timeout=10).status_code == 200:
                return
        except (httpx.TransportError, FileNotFoundError):
            pass
        time.sleep(0.2)
    pytest.fail(log.read_text()[-3000:])
