"""A real TorchServe, as `hire serve` starts it: same scores, hardened, changed without a gap, really stopped."""

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

import httpx
import numpy as np
import psutil
import pytest
from registered import RegisteredModel

from hire_model.data.store import Dataset, Split
from hire_model.errors import HireError
from hire_model.gallery.building import build
from hire_model.model import artifact
from hire_model.packaging.archive import package
from hire_model.packaging.verify import ArchiveError
from hire_model.scoring.scorer import Scorer
from hire_model.service.payload import serialize_image
from hire_model.tracking.versions import Archive, find_archive
from serving import HANDLER, instance, server
from serving.client import HireClient
from serving.contract import EXPLANATIONS, PREDICTIONS
from serving.instance import Instance

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def split(registered_model: RegisteredModel) -> Split:
    return Dataset.open(registered_model.dataset).split("test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def archive(registered_model: RegisteredModel, place: Path) -> Archive:
    package("1", registered_model.settings, HANDLER, place / "archives")
    return find_archive("1", registered_model.settings.tracking)


@pytest.fixture(scope="module")
def running(archive: Archive, registered_model: RegisteredModel, split: Split, place: Path) -> Iterator[Instance]:
    """A server with a gallery; whatever serves below `place` in the end is killed."""
    build(artifact.load(registered_model.folder), split, place / "galleries" / "scenes", captions=True)
    [port] = instance.free_ports(1)
    try:
        yield server.serve(archive, place / "run", port=port, galleries=place / "galleries")
    finally:
        server.stop(place / "run")
        for process in psutil.process_iter(["cmdline"]):
            if str(place) in " ".join(process.info["cmdline"] or ()) and "ModelServer" in str(process.info["cmdline"]):
                process.kill()


def _pairs(split: Split, count: int) -> dict[str, Any]:
    return {
        "pairs": [
            {"image": json.loads(serialize_image(split.regions(i))), "text": split.texts[i]} for i in range(count)
        ]
    }


def test_served_scores_are_the_scorers(running: Instance, registered_model: RegisteredModel, split: Split) -> None:
    scorer = Scorer.load(registered_model.folder)
    expected = scorer.predict([(split.regions(i), split.texts[i]) for i in range(8)])
    answer = server.ask(running, _pairs(split, 8)).json()
    np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)
    assert answer["model"]["version"] == "1" and len(answer["model"]["run_id"]) == 32
    stored = [{"gallery": "scenes", "id": split.image_id(i)} for i in range(8)]
    matrix = server.ask(running, {"images": stored, "texts": split.texts[:5]}, PREDICTIONS + "/1").json()["scores"]
    expected = scorer.predict([(split.regions(i), text) for i in range(8) for text in split.texts[:5]])
    np.testing.assert_allclose(np.ravel(matrix), expected, atol=1e-5)
    [found] = server.ask(running, {"gallery": "scenes", "texts": split.texts[:1], "top_k": 3}).json()["results"]
    best = sorted((scorer.predict([(split.regions(i), split.texts[0])])[0] for i in range(8)), reverse=True)
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], best[:3], atol=1e-5)
    why = server.ask(running, _pairs(split, 2), EXPLANATIONS).json()["explanations"]
    assert [sum(one["contributions"]) for one in why] == pytest.approx(answer["scores"][:2], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b'{"pairs"', 400, ""),
        (b"\xff\xd8\xff", 400, ""),
        (b"", 400, ""),
        (b"[" * 50_000, 400, ""),
        (b'{"pairs": [{"image": "photo", "text": "a"}]}', 400, "pairs[0].image"),
        (b'{"gallery": "nowhere", "texts": ["a"]}', 404, "gallery"),
        (b'{"images": [{"gallery": "scenes", "id": "nobody"}], "texts": ["a"]}', 404, "images[0].id"),
        (json.dumps({"gallery": "scenes", "texts": [str(i) for i in range(300)]}).encode(), 413, ""),
    ],
)
def test_bad_requests_are_told_their_fault(running: Instance, body: bytes, status: int, path: str) -> None:
    headers = {"Authorization": f"Bearer {running.token()}", "Content-Type": "application/json"}
    answer = httpx.post(running.address + PREDICTIONS, content=body, headers=headers, timeout=60)
    assert answer.status_code == status and answer.headers["content-type"] == "application/json"
    fault = answer.json()
    assert (fault["status"], fault["path"]) == (status, path) and fault["message"] and fault["model"]["version"] == "1"


def test_tokens_are_wanted_everywhere_but_for_metrics(running: Instance) -> None:
    for address in (running.address + "/ping", running.address + PREDICTIONS, running.management + "/models"):
        assert httpx.get(address, timeout=60).status_code == 400
        assert httpx.get(address, headers={"Authorization": "Bearer wrong"}, timeout=60).status_code == 400
    bearer = {"Authorization": f"Bearer {running.token()}"}
    assert httpx.get(running.address + "/ping", headers=bearer, timeout=60).json() == {"status": "Healthy"}
    assert httpx.get(running.management + "/models", headers=bearer, timeout=60).status_code == 400, "another token"
    metrics = httpx.get(f"http://127.0.0.1:{running.metrics_port}/metrics", timeout=60).text
    assert "HirePairs{" in metrics and "HireDecodeMilliseconds{" in metrics and "Requests2XX{" in metrics
    assert (running.folder / "key_file.json").stat().st_mode & 0o077 == 0
    assert running.folder.stat().st_mode & 0o077 == 0


def test_the_configuration_is_in_force(running: Instance) -> None:
    bearer = {"Authorization": f"Bearer {running.token('management')}"}
    [facts] = httpx.get(running.management + "/models/hire", headers=bearer, timeout=60).json()
    assert (facts["modelVersion"], facts["minWorkers"], facts["maxWorkers"]) == ("1", 1, 1)
    assert (facts["batchSize"], facts["responseTimeout"]) == (1, 15)
    assert facts["jobQueueStatus"]["remainingCapacity"] == 32 and not facts["useVenv"]
    register = {"url": "hire.mar", "model_name": "other"}
    answer = httpx.post(running.management + "/models", params=register, headers=bearer, timeout=60)
    assert answer.status_code == 405, "no model can be registered"
    workflow = {"url": "http://127.0.0.1:9/x.war", "workflow_name": "w"}
    answer = httpx.post(running.management + "/workflows", params=workflow, headers=bearer, timeout=60)
    assert answer.status_code >= 400 and not list((running.folder / "workflows").iterdir())
    headers = {"Authorization": f"Bearer {running.token()}", "Content-Type": "application/json"}
    answer = httpx.post(running.address + PREDICTIONS, content=b"0" * (17 << 20), headers=headers, timeout=60)
    assert answer.status_code == 413
    said = (running.folder / "logs" / "ts_log.log").read_text("utf-8")
    for line in (
        "Model API enabled: false", f"Allowed Urls: [file://{running.folder}/store/.*]", "Metrics mode: PROMETHEUS",
        "Custom python dependency for model allowed: false", "Maximum Request Size: 16777216",
        "Initial Models: hire=hire.mar", f"Workflow Store: {running.folder}/workflows", "Disable system metrics: true",
    ):  # fmt: skip
        assert line in said


def test_nothing_listens_beyond_this_machine_and_no_secret_goes_in(
    running: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = running.process()
    assert process is not None
    family = [process, *process.children(recursive=True)]
    listening = {c.laddr for one in family for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert len(listening) >= 5 and {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    for one in family:
        names = set(one.environ())
        assert names.isdisjoint({"PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI", "TS_ALLOWED_URLS"})
        assert one.environ()["OMP_NUM_THREADS"] == "1"


def test_status_tells_version_health_and_memory(running: Instance, place: Path) -> None:
    found = server.status(place / "run")
    assert found is not None and found.healthy and found.instance == running
    assert len(found.worker_mb) == 1 and found.memory_mb > found.worker_mb[0] > 50


def test_a_tampered_archive_changes_nothing(running: Instance, archive: Archive, place: Path, tmp_path: Path) -> None:
    harmed = Path(shutil.copy(archive.path, tmp_path / "hire.mar"))
    with harmed.open("r+b") as file:
        file.seek(5000)
        file.write(b"!")
    with pytest.raises(ArchiveError, match="SHA-256"):
        server.serve(Archive(archive.version, harmed, archive.sha256), place / "run")
    assert server.current(place / "run") == running and server.healthy(running)


def test_a_gallery_of_another_model_keeps_the_version_that_can_use_its_own(
    running: Instance, archive: Archive, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = place / "strange" / "scenes"
    shutil.copytree(place / "galleries" / "scenes", strange, symlinks=True)
    (strange / "images-lengths.npy").write_bytes(b"damaged")
    with pytest.raises(HireError, match=r"strange/scenes: version 1 cannot use.*hire gallery build.*still is"):
        server.serve(archive, place / "run", port=running.inference_port, galleries=strange.parent)
    assert server.current(place / "run") == running and server.healthy(running)
    server._check_galleries(running, place / "galleries", first=False)
    (place / "galleries" / "broken").mkdir()
    (place / "galleries" / "broken" / "manifest.json").write_text("{}")
    server._check_galleries(running, place / "galleries", first=True)
    assert "broken: version 1 cannot use" in caplog.text
    shutil.rmtree(place / "galleries" / "broken")


def test_another_version_takes_over_and_no_request_is_lost(
    running: Instance, archive: Archive, place: Path, split: Split
) -> None:
    """Clients that know the folder get every answer, through the change and after; none of them is told of it."""
    golden, end = server.golden_of(running), threading.Event()
    pairs = [(split.regions(0), split.texts[0])]

    def ask_on(hire: HireClient) -> list[float]:
        scores: list[float] = []
        while not end.is_set():
            scores += hire.score(pairs).scores
        return scores

    with HireClient(place / "run", deadline=300) as hire, ThreadPoolExecutor(2) as pool:
        [expected] = hire.score(pairs).scores
        asking = [pool.submit(ask_on, hire) for _ in range(2)]
        try:
            new = server.serve(archive, place / "run", port=running.inference_port)
            [after] = hire.score(pairs).scores
        finally:
            end.set()
        scores = [score for one in asking for score in one.result()]
    np.testing.assert_allclose([*scores, after], expected, atol=1e-5)
    assert len(scores) > 20 and server.ask(new, golden.request).status_code == 200
    search = {"gallery": "scenes", "texts": ["a dog"]}  # what was not named again is as before
    assert server.ask(new, search).status_code == 200 and new.galleries == running.galleries
    assert running.process() is None and not running.scratch.exists() and server.current(place / "run") == new
    assert (place / "run" / "upstream.conf").read_text() == f"server 127.0.0.1:{new.inference_port};\n"


def test_the_commands(running: Instance, archive: Archive, place: Path) -> None:
    """--status, the curl line, --stop: in processes of their own."""
    hire = [str(Path(sys.executable).with_name("hire")), "serve", "--folder", str(place / "run")]
    said = subprocess.run([*hire, "--status"], capture_output=True, text=True, check=True, timeout=300).stdout
    assert "golden pairs right" in said and "Version 1" in said
    from serving.cli import curl_line

    now = server.current(place / "run")
    assert now is not None
    line = curl_line(now.address + PREDICTIONS, place / "run")
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=300).stdout
    assert json.loads(answer)["scores"] == pytest.approx(server.golden_of(now).scores, abs=1e-5)
    process = now.process()
    assert process is not None
    family = [process, *process.children(recursive=True)]
    said = subprocess.run([*hire, "--stop"], capture_output=True, text=True, check=True, timeout=300).stdout
    assert "Stopped version 1" in said and not any(instance.is_alive(one) for one in family)
    again = subprocess.run([*hire, "--status"], capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 1 and "No server is running" in again.stdout
    assert os.path.lexists(place / "run" / "current") is False
