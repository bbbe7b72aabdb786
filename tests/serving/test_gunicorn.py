"""What only the gunicorn server does: its socket, its processes, its queue, and its own errors."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from collectors import Collector
from processes import find_endpoint

from hire_model.monitoring.journal import JournalSettings, read_lines
from hire_model.service.contract import ModelFacts
from hire_model.service.service import Reply
from hire_model.tracking.versions import Archive
from serving import server
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.process import Server, find_free_ports
from serving.wsgi import HireApp

SEARCH = {"gallery": "scenes", "texts": ["a dog"], "top_k": 1}


class Metrics:
    """Stand for `serving.metrics.Metrics`."""

    def count_request(self, timings: object, status: int, request_start: str, start: float) -> None: ...


class Service:
    """Stand for `Service`. Remember the requests; take too long if one asks for it."""

    facts = ModelFacts(name="hire", version="3", run_id="r", weights_sha256="0")

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def answer(self, requests: list[Any]) -> tuple[list[Reply], None]:
        self.requests += requests
        if requests[0].body == b"slow":
            raise SystemExit(1)  # as gunicorn's handler of SIGABRT
        return [Reply(200, "{}")], None


def ask(app: HireApp, method: str, path: str, **more: str) -> tuple[int, dict[str, Any]]:
    """Call the application as gunicorn does."""
    from io import BytesIO

    body, statuses = more.pop("body", "").encode(), list[str]()
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_AUTHORIZATION": "Bearer secret"} | more
    environ |= {"CONTENT_LENGTH": more.get("CONTENT_LENGTH", str(len(body)))}
    answer = b"".join(app(environ | {"wsgi.input": BytesIO(body)}, lambda status, _: statuses.append(status)))
    return int(statuses[0].split()[0]), json.loads(answer)


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/ping", {}, 200),
        ("POST", PREDICTIONS, {}, 200),
        ("POST", PREDICTIONS + "/3", {}, 200),
        ("POST", PREDICTIONS + "/4", {}, 404),
        ("POST", "/rerank", {}, 404),  # the front sends PREDICTIONS
        ("GET", PREDICTIONS, {}, 405),
        ("POST", PREDICTIONS, {"HTTP_AUTHORIZATION": "Bearer wrong"}, 401),
        ("GET", "/ping", {"HTTP_AUTHORIZATION": ""}, 401),
        ("POST", PREDICTIONS, {"CONTENT_LENGTH": str((16 << 20) + 1)}, 413),
        ("POST", EXPLANATIONS, {"body": "slow"}, 503),
    ],
)
def test_the_application_answers_in_the_form_of_the_contract(
    method: str, path: str, more: dict[str, str], status: int
) -> None:
    app = HireApp(Service(), "secret", Metrics())  # type: ignore[arg-type]
    found, answer = ask(app, method, path, **more)
    assert found == status
    if status != 200:
        assert answer["status"] == status and answer["message"] and answer["model"]["version"] == "3"


def test_explanations_probes_and_traces_are_passed_on() -> None:
    service = Service()
    app = HireApp(service, "secret", Metrics())  # type: ignore[arg-type]
    ask(app, "POST", EXPLANATIONS, body="a")
    ask(app, "POST", PREDICTIONS, body="b", HTTP_X_HIRE_PROBE="1", HTTP_TRACEPARENT="00-1")
    seen = [(r.body, r.explain, r.probe, r.traceparent) for r in service.requests]
    assert seen == [(b"a", True, False, ""), (b"b", False, True, "00-1")]


@pytest.mark.live
def test_only_the_owner_can_connect_and_the_processes_inherit_no_secrets(gunicorn: Server) -> None:
    process = gunicorn.find_process()
    assert process is not None and gunicorn.socket is not None
    family = [process, *process.children(recursive=True)]
    assert len(family) == 1 + gunicorn.workers
    listening = {
        (c.laddr.ip, c.laddr.port) for each in family for c in each.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }  # fmt: skip
    assert listening == {("127.0.0.1", gunicorn.metrics_port)}
    for path in (gunicorn.scratch, gunicorn.folder, gunicorn.folder / "key_file.json", gunicorn.folder / "header.txt"):
        assert path.stat().st_mode & 0o077 == 0
    for each in family:
        assert set(each.environ()).isdisjoint({"PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI"})
        assert each.environ()["OMP_NUM_THREADS"] == "1"
    wrong = {"Authorization": "Bearer wrong"}
    with gunicorn.open_client(60) as client:
        assert client.post(PREDICTIONS, json=SEARCH, headers=wrong).status_code == 401
        assert client.post(PREDICTIONS, json=SEARCH).status_code == 401


@pytest.mark.live
def test_the_workers_share_the_memory_of_the_model(gunicorn: Server) -> None:
    process = gunicorn.find_process()
    assert process is not None
    own = [child.memory_full_info().uss for child in process.children()]
    assert max(own) < process.memory_info().rss / 2


@pytest.mark.live
def test_requests_beyond_the_queue_get_503_at_once_and_the_others_an_answer(gunicorn: Server) -> None:
    """The workers are stopped, so that requests wait: 32 per worker, and one more in the kernel."""
    process, endpoint, answers = gunicorn.find_process(), find_endpoint(gunicorn), list[httpx.Response]()
    assert process is not None
    workers, limit = process.children(), 32 * gunicorn.workers + 1

    def send() -> None:
        answers.append(client.post(PREDICTIONS, json=SEARCH))

    client = httpx.Client(base_url=endpoint.address, headers=endpoint.make_headers(), timeout=60)
    threads = [threading.Thread(target=send) for _ in range(limit + 20)]
    for worker in workers:
        worker.suspend()
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 10  # the server ends a worker that does not move for 15 s
        while len(answers) < 20 and time.monotonic() < end:
            time.sleep(0.1)
        refused = list(answers)
    finally:
        for worker in workers:
            worker.resume()
    for thread in threads:
        thread.join()
    client.close()
    assert len(refused) == 20 and {answer.status_code for answer in refused} == {503}
    assert sum(answer.status_code == 200 for answer in answers) == limit


@pytest.mark.live
def test_a_killed_server_is_started_again_as_it_was_and_traces_its_requests(
    archived: Archive, galleries: Path, tmp_path: Path, collector: Collector
) -> None:
    run, [port], journal = tmp_path / "run", find_free_ports(1), JournalSettings(tmp_path / "journal", 1.0)
    options = {"version": "challenger", "kind": "gunicorn", "port": port, "galleries": galleries, "journal": journal}
    try:
        old = server.serve(archived, run, **options)
        process = old.find_process()
        assert process is not None
        family = [process, *process.children()]
        os.kill(old.pid, signal.SIGKILL)
        psutil.wait_procs(family, 30)  # the workers end by themselves
        assert not any(each.is_running() for each in family[1:])
        assert server.find_current(run) is None and server.find_crashed_version(run) == "challenger"
        new = server.serve(archived, run, version="challenger")
        assert (new.kind, new.workers, new.galleries, new.journal) == ("gunicorn", 1, galleries, journal)
        front = find_endpoint(new)
        assert front.address.endswith(f":{port}")
        headers = front.make_headers() | {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        answer = httpx.post(front.address + PREDICTIONS, json=SEARCH, headers=headers, timeout=60)
        assert answer.status_code == 200
        span = collector.wait_for("predict")
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("1" * 32, "2" * 16), "health checks are no spans"
    finally:
        server.stop(run)
    [line] = read_lines(journal.folder)
    assert (line.kind, line.version) == ("search", "1"), "the request is in the journal, the health checks are not"
