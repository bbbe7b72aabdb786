"""A real Prefect server, a real MLflow server and a worker, each with SQLite in a folder of the test session."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from real_servers import CARRIED, PATIENCE, ROOT, Servers, clean_environment, command, free_port, running, wait_for


@pytest.fixture(autouse=True)
def _nothing_stays_at_work() -> Iterator[None]:
    """Prefect's threads end with a test: they go on asking a server, and draw from `random`, which others seed."""
    yield
    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=60)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    place = tmp_path_factory.mktemp("servers")
    ports = free_port(), free_port()
    prefect, mlflow = f"http://127.0.0.1:{ports[0]}/api", f"http://127.0.0.1:{ports[1]}"
    env = clean_environment() | {
        "PREFECT_HOME": str(place / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": prefect,
        "MLFLOW_TRACKING_URI": mlflow,
    }
    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports[0])]
    tracking = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(ports[1]), "--workers", "1"]
    tracking += ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place / "kept")]
    logs = place / "prefect.log", place / "mlflow.log"
    apart = {key: value for key, value in env.items() if not key.startswith("MLFLOW")}
    with running(server, env, place, logs[0]) as first, running(tracking, apart, place, logs[1]) as second:
        wait_for(f"{prefect}/health", first, logs[0])
        wait_for(f"{mlflow}/health", second, logs[1])
        yield Servers(prefect, mlflow, env)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's folder, apart from this one, so that runs, locks and caches are the tests' own."""
    folder = tmp_path_factory.mktemp("project")
    for name in CARRIED:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Relational scenes, 120 train, 20 dev, 40 test: enough for a warm start to be far better than none."""
    from hire_model.data.synthetic import generate

    out = tmp_path_factory.mktemp("flow-data") / "scenes"
    generate(out, train=120, dev=20, test=40, seed=0)
    return out


@pytest.fixture
def here(servers: Servers, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Flows called in this process use the servers, in the project's folder."""
    import mlflow
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    monkeypatch.chdir(project)
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "HIRE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.mlflow)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(servers.mlflow)  # an earlier test may have named another
    home = Path(servers.env["PREFECT_HOME"])
    with temporary_settings(
        {PREFECT_API_URL: servers.prefect, PREFECT_HOME: home, PREFECT_LOCAL_STORAGE_PATH: home / "storage"}
    ):
        yield servers
    mlflow.set_tracking_uri(before)
    mlflow.tracking.fluent._active_experiment_id = None


@pytest.fixture(scope="session")
def deployed(servers: Servers, project: Path) -> Iterator[Servers]:
    """The deployments of prefect.yaml, and a worker that serves them."""
    made = command(servers, project, "prefect", "work-pool", "create", "hire", "--type", "process")
    assert made.returncode == 0, made.stdout + made.stderr
    done = command(servers, project, "prefect", "--no-prompt", "deploy", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    log = project / "worker.log"
    with running(["prefect", "worker", "start", "--pool", "hire"], servers.env, project, log) as worker:
        for _ in range(PATIENCE):
            assert worker.poll() is None, log.read_text()
            if servers.ask("work_pools/hire")["status"] == "READY":
                break
            time.sleep(1)
        yield servers


@pytest.fixture
def heard() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a webhook, and what it was told."""
    words: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            words.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *said: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", words
    server.shutdown()
