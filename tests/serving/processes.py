"""A server in a process of its own, for tests that ask it."""

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

START_S = 300


@dataclass(frozen=True)
class Server:
    """Its address, and its key file where it wants a token."""

    address: str
    keys: Path | None = None

    def headers(self) -> dict[str, str]:
        token = json.loads(self.keys.read_text())["inference"]["key"] if self.keys else ""
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})


@contextmanager
def running(module: str, options: list[str], folder: Path, found: Server, more: dict[str, str]) -> Iterator[Server]:
    """`python -m module options` in `folder`, from when it says it is well until it is killed, children and all."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")} | more
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow looks for uvicorn there
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PATH": path}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options], cwd=folder, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, found, folder / "log")
        yield found
    finally:
        for order in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, order)
                process.wait(30)


def _wait(process: subprocess.Popen[bytes], found: Server, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{found.address}/ping", headers=found.headers(), timeout=10).status_code == 200:
                return
        except (httpx.TransportError, FileNotFoundError):
            pass
        time.sleep(0.2)
    pytest.fail(log.read_text()[-3000:])
