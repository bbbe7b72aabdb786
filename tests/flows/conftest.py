"""Fixtures: a real Prefect server, a real MLflow server and a worker, which all tests of the session share."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from real_servers import (
    LINKED,
    ROOT,
    SMALL,
    Servers,
    clean_environment,
    find_free_port,
    run_module,
    start_process,
    wait_for_url,
    wait_until,
)


@pytest.fixture(autouse=True)
def _stop_prefect_threads() -> Iterator[None]:
    """Stop Prefect's threads after each test: they call a server, and draw from `random`, which other tests seed."""
    yield
    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=60)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Prefect and MLflow with SQLite databases in a temporary folder."""
    folder = tmp_path_factory.mktemp("servers")
    ports = find_free_port(), find_free_port()
    prefect, mlflow = f"http://127.0.0.1:{ports[0]}/api", f"http://127.0.0.1:{ports[1]}"
    env = clean_environment() | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": prefect,
        "MLFLOW_TRACKING_URI": mlflow,
    }
    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports[0])]
    tracking = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(ports[1]), "--workers", "1"]
    tracking += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    tracking += ["--artifacts-destination", str(folder / "artifacts")]
    logs = folder / "prefect.log", folder / "mlflow.log"
    server_env = {key: value for key, value in env.items() if not key.startswith("MLFLOW")}
    server_env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # it would start seven more processes
    with (
        start_process(server, env, folder, logs[0]) as first,
        start_process(tracking, server_env, folder, logs[1]) as second,
    ):
        wait_for_url(f"{prefect}/health", first, logs[0])
        wait_for_url(f"{mlflow}/health", second, logs[1])
        yield Servers(prefect, mlflow, env)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to the project's files, so that runs, locks and caches of the tests are separate."""
    folder = tmp_path_factory.mktemp("project")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Relational scenes, 120 train, 20 dev, 40 test: enough for the warm start to raise the recall clearly."""
    from hire_model.data.synthetic import generate

    out = tmp_path_factory.mktemp("flow-data") / "scenes"
    generate(out, train=120, dev=20, test=40, seed=0)
    return out


@pytest.fixture
def in_project(servers: Servers, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Make flows that are called in this process use the servers and the project folder."""
    import mlflow
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
        temporary_settings,
    )

    monkeypatch.chdir(project)
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "HIRE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.mlflow)
    uri_before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(servers.mlflow)  # an earlier test may have set another URI
    home = Path(servers.env["PREFECT_HOME"])
    with temporary_settings(
        {
            PREFECT_API_URL: servers.prefect,
            PREFECT_HOME: home,
            PREFECT_LOCAL_STORAGE_PATH: home / "storage",
            PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.2,
        }
    ):
        yield servers
    mlflow.set_tracking_uri(uri_before)
    mlflow.tracking.fluent._active_experiment_id = None


@pytest.fixture(scope="session")
def deployed(servers: Servers, project: Path) -> Iterator[Servers]:
    """The deployments of prefect.yaml, and a worker that runs them."""
    servers.call("work_pools/", {"name": "hire", "type": "process"})
    log = project / "worker.log"
    with start_process(["prefect", "worker", "start", "--pool", "hire"], servers.env, project, log) as worker:
        result = run_module(["prefect", "--no-prompt", "deploy", "--all"], servers.env, project)
        assert result.returncode == 0, result.stdout + result.stderr

        def is_ready() -> bool:
            assert worker.poll() is None, log.read_text()
            return servers.call("work_pools/hire")["status"] == "READY"

        wait_until(is_ready, log=log)
        yield servers


@pytest.fixture(scope="session")
def retrained(deployed: Servers, project: Path, scenes: Path) -> dict[str, Any]:
    """The flow run of `prefect deployment run hire/retrain --watch`, the first of the session."""
    command = ["prefect", "deployment", "run", "hire/retrain", "--watch", "--watch-interval", "1"]
    for key, value in {"data": str(scenes), "overrides": SMALL}.items():
        command += ["-p", f"{key}={json.dumps(value)}"]
    result = run_module(command, deployed.env, project)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output + (project / "worker.log").read_text()
    [run] = set(re.findall(r"UUID: (\S+)", output))
    return deployed.call(f"flow_runs/{run}")


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The URL of a webhook, and the list of the JSON bodies that it received."""
    received: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()
