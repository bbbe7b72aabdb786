"""Prefect's commands print what to start if a server or worker is missing; flows run without a server."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.plugins import HookContext
from prefect.settings import PREFECT_SERVER_API_PORT, temporary_settings
from real_servers import TIMEOUT, Servers, clean_environment, find_free_port, run_module

from flows import plugin

RUN = ["/x/prefect", "deployment", "run", "hire/retrain", "--watch"]


class ServerStub(BaseHTTPRequestHandler):
    """Replaces Prefect's server, with one deployment and one work pool."""

    pool, ready = "hire", True

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        body: object = True
        if "work_pools" in self.path:
            body = {"status": "READY" if self.ready and self.path.endswith(f"/{self.pool}") else "NOT_READY"}
        elif "deployments" in self.path:
            body = {"work_pool_name": self.pool}
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a `ServerStub`."""
    server = HTTPServer(("127.0.0.1", 0), ServerStub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def call_hook(monkeypatch: pytest.MonkeyPatch, port: int, argv: list[str], url: str | None = None) -> str | None:
    """Call the hook as Prefect does for the command `argv`; return the URL that it sets. url: set by the user."""
    monkeypatch.setattr(sys, "argv", argv)
    with temporary_settings({PREFECT_SERVER_API_PORT: port}):
        result = plugin.setup_environment(ctx=HookContext("3", url, logging.getLogger))
    return None if result is None else result.env["PREFECT_API_URL"]


def test_the_local_server_is_found(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (RUN, ["/x/prefect", "deploy", "--all"], ["train.py"]):
        assert call_hook(monkeypatch, port, argv) == f"http://127.0.0.1:{port}/api"


def test_a_server_that_the_user_has_set_is_not_replaced(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call_hook(monkeypatch, find_free_port(), RUN, f"http://127.0.0.1:{port}/api") is None


def test_without_a_server_a_command_that_needs_one_prints_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (RUN, ["/x/prefect", "--no-prompt", "deploy", "--all"], ["/x/prefect", "worker", "start"]):
        with pytest.raises(SystemExit, match=r"No Prefect server answers at http.*make pipeline"):
            call_hook(monkeypatch, find_free_port(), argv)


@pytest.mark.parametrize("argv", [["train.py"], ["/x/prefect", "server", "start"], ["/x/prefect", "deploy", "--help"]])
def test_without_a_server_other_commands_run(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call_hook(monkeypatch, find_free_port(), argv) is None


def test_without_a_worker_a_run_is_refused_and_a_worker_can_start(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerStub, "ready", False)
    with pytest.raises(SystemExit, match=r"no worker for the pool 'hire'.*make pipeline"):
        call_hook(monkeypatch, port, RUN)
    assert call_hook(monkeypatch, port, ["/x/prefect", "worker", "start"])


def test_the_worker_is_checked_in_the_pool_of_the_deployment(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerStub, "pool", "hire-gpu")
    assert call_hook(monkeypatch, port, RUN), "the pool 'hire' has no worker, but the deployment does not use it"
    monkeypatch.setattr(ServerStub, "ready", False)
    with pytest.raises(SystemExit, match=r"no worker for the pool 'hire-gpu'.*prefect worker start --pool hire-gpu"):
        call_hook(monkeypatch, port, RUN)


@pytest.fixture
def serverless(tmp_path: Path) -> dict[str, str]:
    """An environment in which no Prefect server is set or running."""
    return clean_environment() | {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_PORT": str(find_free_port())}


@pytest.mark.live
def test_the_command_prefect_calls_the_hook(project: Path, serverless: dict[str, str]) -> None:
    command = [Path(sys.executable).with_name("prefect"), *RUN[1:]]
    result = subprocess.run(
        command, cwd=project, env=serverless, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert result.returncode == 1 and "make pipeline" in result.stderr, result.stdout + result.stderr


@pytest.mark.live
def test_a_flow_runs_without_a_server(
    servers: Servers, project: Path, tiny_dataset: Path, serverless: dict[str, str]
) -> None:
    servers.copy_database(Path(serverless["PREFECT_HOME"]))
    result = run_module(["hire_model", "flow", "validate", "--data", str(tiny_dataset)], serverless, project)
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "temporary server" in output and "0 errors" in output, output
