"""Where no server or no worker is, `prefect deployment run` says what to start; flows themselves go on without."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.plugins import HookContext
from prefect.settings import PREFECT_SERVER_API_PORT, temporary_settings
from real_servers import PATIENCE, clean_environment, free_port

from flows import plugin

RUN = ["/x/prefect", "deployment", "run", "hire/retrain", "--watch"]


class _Server(BaseHTTPRequestHandler):
    ready, name = True, "hire"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        status = "READY" if self.ready and self.path.endswith(f"work_pools/{self.name}") else "NOT_READY"
        told = {"status": status} if "work_pools" in self.path else {"work_pool_name": self.name}
        self.wfile.write(json.dumps(told if "/health" not in self.path else True).encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """A stand-in for Prefect's server."""
    server = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def _start(monkeypatch: pytest.MonkeyPatch, port: int, argv: list[str], url: str | None = None) -> str | None:
    """The address that the hook gives to Prefect."""
    monkeypatch.setattr(sys, "argv", argv)
    import logging

    with temporary_settings({PREFECT_SERVER_API_PORT: port}):
        found = plugin.setup_environment(ctx=HookContext("3", url, logging.getLogger))
    return None if found is None else found.env["PREFECT_API_URL"]


def test_the_local_server_is_found(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (RUN, ["/x/prefect", "deploy", "--all"], ["train.py"]):
        assert _start(monkeypatch, port, argv) == f"http://127.0.0.1:{port}/api"


def test_a_server_that_was_named_is_kept(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _start(monkeypatch, free_port(), RUN, f"http://127.0.0.1:{port}/api") is None


def test_without_a_server_it_says_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (RUN, ["/x/prefect", "--no-prompt", "deploy", "--all"], ["/x/prefect", "worker", "start"]):
        with pytest.raises(SystemExit, match=r"No Prefect server answers at http.*make pipeline"):
            _start(monkeypatch, free_port(), argv)


@pytest.mark.parametrize("argv", [["train.py"], ["/x/prefect", "server", "start"], ["/x/prefect", "deploy", "--help"]])
def test_without_a_server_the_rest_goes_on(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _start(monkeypatch, free_port(), argv) is None


def test_without_a_worker_it_says_what_to_start(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Server, "ready", False)
    with pytest.raises(SystemExit, match=r"no worker for the pool 'hire'.*make pipeline"):
        _start(monkeypatch, port, RUN)
    assert _start(monkeypatch, port, ["/x/prefect", "worker", "start"]), "which is the very thing to start"


def test_a_deployment_is_asked_which_pool_it_goes_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Server, "name", "hire-gpu")
    assert _start(monkeypatch, port, RUN), "that the pool hire has no worker is nothing to it"
    monkeypatch.setattr(_Server, "ready", False)
    with pytest.raises(SystemExit, match=r"no worker for the pool 'hire-gpu'.*prefect worker start --pool hire-gpu"):
        _start(monkeypatch, port, RUN)


@pytest.mark.live
def test_the_command_itself_says_it(project: Path, tmp_path: Path) -> None:
    env = clean_environment() | {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_PORT": str(free_port())}
    done = subprocess.run(
        [Path(sys.executable).with_name("prefect"), "deployment", "run", "hire/retrain", "--watch"],
        cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "make pipeline" in done.stderr, done.stdout + done.stderr


@pytest.mark.live
def test_a_flow_runs_without_a_server(project: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    env = clean_environment() | {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-m", "flows", "validate", "--data", str(tiny_dataset)],
        cwd=project, env=env, capture_output=True, text=True, timeout=2 * PATIENCE, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "temporary server" in said and "0 errors" in said, said
