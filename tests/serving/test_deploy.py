"""The files of serving/deploy are consistent with each other and with the server. No container engine is needed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from processes import read_metrics
from proxies import find_nginx

from serving import server
from serving.process import Server, find_free_ports
from serving.torchserve import CONFIG

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serving" / "deploy"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROMQL = {"sum", "rate", "max", "absent", "job", "hire", "or", "up", "e6", "e3", "m", "__rate_interval"}


def _find_metric_names() -> dict[str, set[str]]:
    """Return query -> names of metrics in it, for all queries of Grafana and of the alerts."""
    panels = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))["panels"]
    alerts = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]] + [rule["expr"] for rule in alerts]
    return {query: set(NAME.findall(query)) - PROMQL for query in queries}


def test_every_query_uses_configured_metrics() -> None:
    settings = yaml.safe_load((CONFIG / "metrics.yaml").read_text("utf-8"))
    configured = {
        metric["name"]
        for part in ("ts_metrics", "model_metrics")
        for metrics in settings[part].values()
        for metric in metrics
    }
    queries = _find_metric_names()
    assert len(queries) >= 15 and all(names <= configured for names in queries.values()), queries
    used = set().union(*queries.values())
    assert configured - used == {"WorkerThreadTime"}, "a metric without a query need not be configured"


@pytest.mark.live
@pytest.mark.parametrize("name", ["torchserve", "gunicorn"])
def test_every_query_uses_metrics_of_the_running_server(request: pytest.FixtureRequest, name: str) -> None:
    running: Server = request.getfixturevalue(name)
    server.send_request(running, json.loads((running.folder / "example.json").read_text("utf-8"))).raise_for_status()
    [target] = json.loads((running.folder / "targets.json").read_text("utf-8"))
    assert target["labels"] == {"version": "1"}
    assert target["targets"] == [f"127.0.0.1:{running.metrics_port}"]
    names = {name for names in _find_metric_names().values() for name in names}
    read_metrics(running.metrics_port, *(f"# TYPE {name} " for name in names))
    token = (running.folder / "token.conf").read_text().splitlines()[0]
    assert token == f'proxy_set_header Authorization "Bearer {running.get_token()}";'


def test_promtool_accepts_the_prometheus_configuration() -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool is not installed: apt-get install -y prometheus")
    subprocess.run([promtool, "check", "config", "prometheus.yml"], cwd=DEPLOY, check=True, timeout=60)


def test_proxy_and_server_have_matching_limits() -> None:
    proxy, server = (DEPLOY / "nginx.conf").read_text("utf-8"), (CONFIG / "config.properties").read_text("utf-8")
    [size], [seconds] = re.findall(r"client_max_body_size (\d+)m;", proxy), re.findall(r"read_timeout (\d+)s;", proxy)
    assert f"max_request_size={int(size) << 20}\n" in server
    assert int(seconds) > int(re.findall(r"default_response_timeout=(\d+)", server)[0])


def test_the_containerfile_copies_existing_files_and_runs_as_a_user() -> None:
    lines = (DEPLOY / "Containerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert {step for step, _ in steps} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT"}
    sources = [source for step, rest in steps if step == "COPY" for source in shlex.split(rest)[:-1]]
    assert sources and all((ROOT / source).exists() for source in sources)
    [image] = [rest for step, rest in steps if step == "FROM"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", image), "pin a version"
    assert [rest for step, rest in steps if step == "USER"] == ["hire"]
    [entry] = [json.loads(rest) for step, rest in steps if step == "ENTRYPOINT"]
    script = ROOT / Path(entry[0]).relative_to("/opt/hire")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=60)


def test_the_compose_file_limits_privileges_and_ports() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    serve, prometheus = compose["services"]["serve"], compose["services"]["prometheus"]
    assert (ROOT / serve["build"]["dockerfile"]).is_file() and (DEPLOY / serve["build"]["context"]).resolve() == ROOT
    assert serve["cap_drop"] == ["ALL"] and serve["read_only"] and serve["ports"] == ["8443:8443"]
    assert prometheus["network_mode"] == "service:serve" and "ports" not in prometheus
    local = [volume.split(":")[0] for volume in prometheus["volumes"] if volume.startswith("./")]
    assert len(local) == 2 and all((DEPLOY / path).is_file() for path in local)


def test_docker_compose_accepts_the_compose_file() -> None:
    command = shutil.which("docker-compose") or pytest.skip("no docker-compose: apt-get install -y docker-compose")
    environment = os.environ | {"PROJECT_HOME": "/srv/hire", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    subprocess.run(
        [command, "-f", "compose.yaml", "config", "--quiet"], cwd=DEPLOY, env=environment, check=True, timeout=120
    )


def test_the_run_script_refuses_to_start_without_clients(tmp_path: Path) -> None:
    environment = os.environ | {"SERVE_FOLDER": str(tmp_path / "serve")}
    done = subprocess.run([DEPLOY / "run"], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "clients.conf is missing or empty" in done.stderr


@pytest.fixture
def fake_hire(tmp_path: Path) -> Path:
    """A fake command `hire`: it creates the folder `current`, is healthy while that exists, and --stop removes it."""
    hire, folder = tmp_path / "bin" / "hire", tmp_path / "serve"
    folder.mkdir()
    (folder / "clients.conf").write_text('"Bearer a" laptop;\n')
    (folder / "listen.conf").write_text(f"listen 127.0.0.1:{find_free_ports(1)[0]};\n")
    hire.parent.mkdir()
    hire.write_text(
        "#!/bin/sh\n"
        f"cd {folder}\n"
        'case "$*" in\n'
        "*--status*) test -d current ;;\n"
        "*--stop*) rm -rf current ;;\n"
        "*) mkdir current; touch current/token.conf; echo 'server 127.0.0.1:9;' > upstream.conf ;;\n"
        "esac\n"
    )
    hire.chmod(0o755)
    return hire


@contextmanager
def run_script(fake_hire: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start the script serving/deploy/run with the fake `hire`. Yield the process and the folder."""
    folder = fake_hire.parent.parent / "serve"
    path = f"{fake_hire.parent}:{Path(find_nginx()).parent}:{os.environ['PATH']}"
    environment = os.environ | {"SERVE_FOLDER": str(folder), "PATH": path}
    pipe = subprocess.PIPE
    with subprocess.Popen([DEPLOY / "run"], env=environment, stdout=pipe, stderr=pipe, text=True) as running:
        yield running, folder


def test_the_proxy_stops_with_the_server(fake_hire: Path) -> None:
    with run_script(fake_hire) as (running, folder):
        assert running.stdout is not None and "The proxy listens" in running.stdout.readline()
        pid = int((folder / "nginx.pid").read_text())
        subprocess.run([fake_hire, "serve", "--stop"], check=True, timeout=60)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) in {0, 1}  # 0 after the signal, 1 if the health check is first
    assert not psutil.pid_exists(pid)


def test_the_server_stops_with_the_proxy(fake_hire: Path) -> None:
    with run_script(fake_hire) as (running, folder):
        assert running.stdout is not None and "The proxy listens" in running.stdout.readline()
        os.kill(int((folder / "nginx.pid").read_text()), signal.SIGTERM)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1 and "server or the proxy has failed" in errors
    assert not (folder / "current").exists()


def test_a_proxy_that_cannot_listen_reports_the_reason(fake_hire: Path) -> None:
    listen = fake_hire.parent.parent / "serve" / "listen.conf"
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen.write_text(f"listen 127.0.0.1:{other.getsockname()[1]};\n")
        with run_script(fake_hire) as (running, folder):
            _, errors = running.communicate(timeout=60)
    assert running.returncode == 1 and "Address already in use" in errors
    assert not (folder / "current").exists()
