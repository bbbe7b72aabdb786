"""A real TorchServe as `hire serve` starts it: scores, hardening, replacement without downtime, and stopping."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gallery_examples
import httpx
import numpy as np
import psutil
import pytest
from collectors import Collector
from processes import read_metrics
from registered import RegisteredModel

from hire_model.data.store import Dataset, Split
from hire_model.gallery.building import build
from hire_model.model import artifact
from hire_model.monitoring.journal import JournalSettings
from hire_model.packaging.archive import package
from hire_model.packaging.verify import ArchiveError
from hire_model.scoring.scorer import Scorer
from hire_model.service.payload import serialize_image
from hire_model.tracking.versions import Archive, find_archive
from serving import HANDLER, server
from serving.address import find_front
from serving.cli import format_curl_command
from serving.client import HireClient
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.process import Kind, Server, find_free_ports, is_alive
from serving.tokens import HEADER

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def split(registered_model: RegisteredModel) -> Split:
    return Dataset.open(registered_model.dataset).split("test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def archive(registered_model: RegisteredModel, folder: Path) -> Archive:
    package("1", registered_model.settings, HANDLER, folder / "archives")
    return find_archive("1", registered_model.settings.tracking)


@pytest.fixture(scope="module")
def running(archive: Archive, registered_model: RegisteredModel, split: Split, folder: Path) -> Iterator[Server]:
    """A server with a gallery. At the end every TorchServe process below `folder` is killed."""
    build(artifact.load(registered_model.folder), split, folder / "galleries" / "scenes", captions=True)
    [port] = find_free_ports(1)
    try:
        yield server.serve(archive, folder / "run", port=port, galleries=folder / "galleries")
    finally:
        server.stop(folder / "run")
        for process in psutil.process_iter(["cmdline"]):
            if str(folder) in " ".join(process.info["cmdline"] or ()) and "ModelServer" in str(process.info["cmdline"]):
                process.kill()


def _make_pairs(split: Split, count: int) -> dict[str, Any]:
    return {
        "pairs": [
            {"image": json.loads(serialize_image(split.regions(i))), "text": split.texts[i]} for i in range(count)
        ]
    }


def test_served_scores_equal_those_of_the_scorer(
    running: Server, registered_model: RegisteredModel, split: Split
) -> None:
    scorer = Scorer.load(registered_model.folder)
    expected = scorer.predict([(split.regions(i), split.texts[i]) for i in range(8)])
    answer = server.send_request(running, _make_pairs(split, 8)).json()
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert answer["model"]["version"] == "1" and len(answer["model"]["run_id"]) == 32
    stored = [{"gallery": "scenes", "id": split.image_id(i)} for i in range(8)]
    request: dict[str, Any] = {"images": stored, "texts": split.texts[:5]}
    matrix = server.send_request(running, request, PREDICTIONS + "/1").json()["scores"]
    expected = scorer.predict([(split.regions(i), text) for i in range(8) for text in split.texts[:5]])
    np.testing.assert_allclose(np.ravel(matrix), expected, atol=1e-3)  # a gallery has half precision
    request = {"gallery": "scenes", "texts": split.texts[:1], "top_k": 3}
    [result] = server.send_request(running, request).json()["results"]
    best = sorted((scorer.predict([(split.regions(i), split.texts[0])])[0] for i in range(8)), reverse=True)
    np.testing.assert_allclose([hit["score"] for hit in result["hits"]], best[:3], atol=1e-3)
    explanations = server.send_request(running, _make_pairs(split, 2), EXPLANATIONS).json()["explanations"]
    sums = [sum(explanation["contributions"]) for explanation in explanations]
    assert sums == pytest.approx(answer["scores"][:2], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b'{"pairs"', 400, ""),
        (b"\xff\xd8\xff", 400, ""),
        (b"", 400, ""),
        (b"[" * 50_000, 400, ""),
        (b'{"pairs": [{"image": "photo", "text": "a"}]}', 400, "pairs[0].image"),
        (b'{"gallery": "nowhere", "texts": ["a"]}', 404, "gallery"),
        (b'{"images": [{"gallery": "scenes", "id": "missing"}], "texts": ["a"]}', 404, "images[0].id"),
        (json.dumps({"gallery": "scenes", "texts": [str(i) for i in range(300)]}).encode(), 413, ""),
    ],
)
def test_bad_requests_are_refused_with_status_and_path(running: Server, body: bytes, status: int, path: str) -> None:
    headers = {"Authorization": f"Bearer {running.get_token()}", "Content-Type": "application/json"}
    answer = httpx.post(running.address + PREDICTIONS, content=body, headers=headers, timeout=60)
    assert answer.status_code == status and answer.headers["content-type"] == "application/json"
    fault = answer.json()
    assert (fault["status"], fault["path"]) == (status, path) and fault["message"] and fault["model"]["version"] == "1"


def test_every_address_but_metrics_requires_a_token(running: Server) -> None:
    for address in (running.address + "/ping", running.address + PREDICTIONS, running.management_address + "/models"):
        assert httpx.get(address, timeout=60).status_code == 400
        assert httpx.get(address, headers={"Authorization": "Bearer wrong"}, timeout=60).status_code == 400
    bearer = {"Authorization": f"Bearer {running.get_token()}"}
    assert httpx.get(running.address + "/ping", headers=bearer, timeout=60).json() == {"status": "Healthy"}
    models = httpx.get(running.management_address + "/models", headers=bearer, timeout=60)
    assert models.status_code == 400, "the management API has its own token"
    read_metrics(running.metrics_port, "HirePairs{", "HireDecodeMilliseconds{", "Requests2XX{")  # without a token
    for path in (running.folder, running.folder / "key_file.json", running.folder / HEADER):
        assert path.stat().st_mode & 0o077 == 0, "only the owner can read the tokens"
    assert (running.folder / HEADER).read_text() == f"Authorization: Bearer {running.get_token()}\n"


def test_the_configuration_is_effective(running: Server) -> None:
    bearer = {"Authorization": f"Bearer {running.get_token('management')}"}
    [facts] = httpx.get(running.management_address + "/models/hire", headers=bearer, timeout=60).json()
    assert (facts["modelVersion"], facts["minWorkers"], facts["maxWorkers"]) == ("1", 1, 1)
    assert (facts["batchSize"], facts["responseTimeout"]) == (1, 15)
    assert facts["jobQueueStatus"]["remainingCapacity"] == 32 and not facts["useVenv"]
    register = {"url": "hire.mar", "model_name": "other"}
    answer = httpx.post(running.management_address + "/models", params=register, headers=bearer, timeout=60)
    assert answer.status_code == 405, "no model can be registered"
    workflow = {"url": "http://127.0.0.1:9/x.war", "workflow_name": "w"}
    answer = httpx.post(running.management_address + "/workflows", params=workflow, headers=bearer, timeout=60)
    assert answer.status_code >= 400 and not list((running.folder / "workflows").iterdir())
    headers = {"Authorization": f"Bearer {running.get_token()}", "Content-Type": "application/json"}
    answer = httpx.post(running.address + PREDICTIONS, content=b"0" * (17 << 20), headers=headers, timeout=60)
    assert answer.status_code == 413
    log = (running.folder / "logs" / "ts_log.log").read_text("utf-8")
    for line in (
        "Model API enabled: false", f"Allowed Urls: [file://{running.folder}/store/.*]", "Metrics mode: PROMETHEUS",
        "Custom python dependency for model allowed: false", "Maximum Request Size: 16777216",
        "Initial Models: hire=hire.mar", f"Workflow Store: {running.folder}/workflows", "Disable system metrics: true",
    ):  # fmt: skip
        assert line in log


def test_the_server_listens_on_127_0_0_1_only_and_inherits_no_secrets(running: Server) -> None:
    process = running.find_process()
    assert process is not None
    family = [process, *process.children(recursive=True)]
    listening = {
        c.laddr for process in family for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN
    }
    assert len(listening) >= 5 and {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    for each in family:
        names = set(each.environ())
        assert names.isdisjoint({"PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI", "TS_ALLOWED_URLS"})
        assert each.environ()["OMP_NUM_THREADS"] == "1"


def test_status_contains_version_health_and_memory(running: Server, folder: Path) -> None:
    status = server.get_status(folder / "run")
    assert status is not None and status.healthy and status.server == running
    assert len(status.worker_mb) == 1 and status.memory_mb > status.worker_mb[0] > 50


def test_a_tampered_archive_is_refused_and_the_server_stays(
    running: Server, archive: Archive, folder: Path, tmp_path: Path
) -> None:
    tampered = Path(shutil.copy(archive.path, tmp_path / "hire.mar"))
    with tampered.open("r+b") as file:
        file.seek(5000)
        file.write(b"!")
    with pytest.raises(ArchiveError, match="SHA-256"):
        server.serve(Archive(archive.version, tampered, archive.sha256), folder / "run")
    assert server.find_current(folder / "run") == running and server.is_healthy(running)


def test_a_server_is_replaced_although_it_cannot_use_a_gallery(
    running: Server, archive: Archive, folder: Path, split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    """As after `hire rollback`: the gallery in service was encoded by the model of the version before."""
    galleries = folder / "stale"
    shutil.copytree(folder / "galleries" / "scenes", galleries / "scenes", symlinks=True)
    build(gallery_examples.make_model(split, seed=5), split, galleries / "newer", captions=True)
    serve_folder = folder / "rolled-back"
    [port] = find_free_ports(1)
    try:
        server.serve(archive, serve_folder, port=port, galleries=galleries)
        shutil.rmtree(galleries / "newer")
        build(gallery_examples.make_model(split, seed=6), split, galleries / "newer", captions=True)
        caplog.clear()
        served = server.serve(archive, serve_folder, port=port)
        assert server.find_current(serve_folder) == served and server.is_healthy(served)
        assert "newer: version 1 cannot use this gallery" in caplog.text and "scenes" not in caplog.text
        [command] = [line.strip() for line in caplog.text.splitlines() if "hire gallery build" in line]
        refused = server.send_request(served, {"gallery": "newer", "texts": ["a dog"]})
        assert refused.status_code == 404 and "another model encoded it" in refused.json()["message"]
        assert "hire gallery build DATASET --model models:/hire/1 --out GALLERIES/newer" in refused.json()["message"]
        assert server.send_request(served, {"gallery": "scenes", "texts": ["a dog"]}).status_code == 200
        expected = f"--model models:/hire/1 --out {galleries / 'newer'} --overwrite --split {split.name} --captions"
        assert command.endswith(expected)
        shutil.rmtree(galleries)
        caplog.clear()
        served = server.serve(archive, serve_folder, port=port)
        assert server.is_healthy(served) and "no such folder" in caplog.text
    finally:
        server.stop(serve_folder)


@pytest.mark.parametrize("kind", ["gunicorn", "gunicorn", "torchserve"])
def test_no_request_is_lost_while_the_server_is_replaced(
    running: Server, archive: Archive, folder: Path, split: Split, kind: Kind
) -> None:
    """Clients that were created from the folder get every answer, during the replacement and after it.

    TorchServe is replaced by gunicorn, gunicorn by another gunicorn, and that by TorchServe.
    """
    old = server.find_current(folder / "run")
    assert old is not None
    golden, end = server.read_golden(old), threading.Event()
    pairs = [(split.regions(0), split.texts[0])]

    def score_repeatedly(hire: HireClient) -> list[float]:
        scores: list[float] = []
        while not end.is_set():
            scores += hire.score(pairs).scores
        return scores

    with HireClient(folder / "run", deadline=300) as hire, ThreadPoolExecutor(2) as pool:
        [expected] = hire.score(pairs).scores
        futures = [pool.submit(score_repeatedly, hire) for _ in range(2)]
        try:
            new = server.serve(archive, folder / "run", kind=kind)
            [after] = hire.score(pairs).scores
        finally:
            end.set()
        scores = [score for future in futures for score in future.result()]
    np.testing.assert_allclose([*scores, after], expected, atol=1e-5)
    assert len(scores) > 20 and server.send_request(new, golden.request).status_code == 200
    search = {"gallery": "scenes", "texts": ["a dog"]}  # the new server keeps the galleries
    assert server.send_request(new, search).status_code == 200 and new.galleries == running.galleries
    assert server.find_current(folder / "run") == new and new.kind == kind
    assert old.find_process() is None and not old.scratch.exists()
    assert (folder / "run" / "upstream.conf").read_text() == f"server {new.upstream};\n"


def test_a_killed_server_is_started_again_with_its_galleries_workers_and_address_and_traces_its_requests(
    running: Server, archive: Archive, folder: Path, tmp_path: Path, collector: Collector
) -> None:
    front, run = find_front(folder / "run"), folder / "run"
    journal = JournalSettings(tmp_path / "journal", 0.5, False)
    old = server.serve(archive, run, version="challenger", workers=2, journal=journal)
    process = old.find_process()
    assert front is not None and process is not None
    family = [process, *process.children(recursive=True)]
    for each in family:
        each.kill()
    psutil.wait_procs(family, 30)
    assert server.find_current(run) is None and server.find_crashed_version(run) == "challenger"
    command = [sys.executable, "-m", "hire_model", "serve", "--folder", str(run), "--status"]
    status = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert status.returncode == 1 and "'challenger' was served and has ended" in status.stdout
    os.utime(old.scratch, (0, 0))
    new = server.serve(archive, run, version=server.find_crashed_version(run))
    assert (new.workers, new.galleries, new.journal) == (2, running.galleries, journal)
    assert find_front(run) == front and not old.scratch.exists()
    headers = {"Authorization": f"Bearer {front.get_token()}", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    search = {"gallery": "scenes", "texts": ["a dog"]}
    assert httpx.post(front.address + PREDICTIONS, json=search, headers=headers, timeout=60).status_code == 200
    span = collector.wait_for("predict")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("1" * 32, "2" * 16), "health checks are no spans"


def test_status_curl_and_stop_work_as_commands(running: Server, folder: Path) -> None:
    hire = [sys.executable, "-m", "hire_model", "serve", "--folder", str(folder / "run")]
    output = subprocess.run([*hire, "--status"], capture_output=True, text=True, check=True, timeout=300).stdout
    assert "golden pairs right" in output and "Version 1" in output
    current = server.find_current(folder / "run")
    assert current is not None
    front = find_front(folder / "run")
    assert front is not None and front.address in output
    command = format_curl_command(front.address + PREDICTIONS, folder / "run")
    assert current.get_token() not in command and front.get_token() not in command
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=300).stdout
    assert json.loads(answer)["scores"] == pytest.approx(server.read_golden(current).scores, abs=1e-5)
    process = current.find_process()
    assert process is not None
    family = [process, *process.children(recursive=True)]
    output = subprocess.run([*hire, "--stop"], capture_output=True, text=True, check=True, timeout=300).stdout
    assert "Stopped version 1" in output and not any(is_alive(each) for each in family)
    again = subprocess.run([*hire, "--status"], capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 1 and "No server is running" in again.stdout
    assert os.path.lexists(folder / "run" / "current") is False and find_front(folder / "run") is None
