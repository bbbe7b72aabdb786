"""Hostile inputs cause no 5xx, do not change other answers of the batch, and leave a healthy server of bounded memory.

The test suite runs some of the inputs. To run 5,000:  HOSTILE=5000 python -m pytest tests/serving/test_hostile.py -s
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from hostile_inputs import Hostile, generate_inputs
from processes import Endpoint, find_endpoint
from registered import RegisteredModel

from hire_model.data.store import Split
from hire_model.service.parsing import Request
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service
from serving import server
from serving.contract import EXPLANATIONS
from serving.process import Server
from serving.tokens import KEYS

COUNT = int(os.environ.get("HOSTILE", "0"))
IN_PROCESS, SERVED = COUNT or 500, COUNT or 300
REFUSED = {400, 404, 405, 413, 415}
REQUEST_S, SLOW_S = 60.0, 15.0  # TorchServe ends a worker after 15 s
JAVA_MB = 1000.0  # limit for the Java process: heap, buffers and its own memory
GROWTH_MB = 300.0  # limit for the growth of the worker

pytestmark = pytest.mark.timeout(600 + COUNT)


@pytest.fixture(scope="module")
def service(registered_model: RegisteredModel, galleries: Path) -> Service:
    return Service.load(registered_model.folder, version="1", galleries=galleries)


@pytest.fixture(scope="module")
def pair(scenes: Split) -> dict[str, Any]:
    return {"image": json.loads(serialize_image(scenes.regions(0))), "text": scenes.texts[0]}


def test_inputs_have_every_kind_and_are_reproducible(pair: dict[str, Any]) -> None:
    kinds = []
    for first, second in zip(generate_inputs(pair, 400), generate_inputs(pair, 400), strict=True):
        is_equal = first == second  # a failed comparison of the bodies would print megabytes
        assert is_equal, first.label
        kinds.append(first.label.split()[0])
    assert len(kinds) == 400
    assert {"schemathesis,", "mutated", "multipart", "form", "content", "path", "features", "shape"} <= set(kinds)


def test_the_service_answers_each_input_and_the_others_of_its_batch_correctly(
    service: Service, pair: dict[str, Any]
) -> None:
    good = Request(json.dumps({"pairs": [pair]}))
    expected = json.loads(service.answer([good])[0][0].body)["scores"]
    seen: Counter[int] = Counter()
    for number, hostile in enumerate(generate_inputs(pair, IN_PROCESS)):
        start = time.process_time()
        before, reply, after = service.answer([good, _make_request(hostile), good])[0]
        label = f"{number}: {hostile.label} {hostile.body[:200]!r}"
        assert time.process_time() - start < SLOW_S / 3, label
        assert reply.status in {200, 400, 404, 413}, f"{label} got {reply.body}"
        _check_body(reply.body.encode(), reply.status, label)
        for neighbour in (before, after):
            np.testing.assert_allclose(json.loads(neighbour.body)["scores"], expected, atol=1e-5, err_msg=label)
        seen[reply.status] += 1
    assert all(seen[status] for status in (200, 400, 404, 413)), seen


@pytest.mark.live
@pytest.mark.parametrize(("name", "count"), [("torchserve", SERVED), ("gunicorn", SERVED // 2)])
def test_a_server_answers_each_input_as_the_service(
    request: pytest.FixtureRequest, service: Service, pair: dict[str, Any], name: str, count: int
) -> None:
    """TorchServe gets the inputs directly, gunicorn through the front."""
    running: Server = request.getfixturevalue(name)
    endpoint = find_endpoint(running) if running.socket else Endpoint(running.address, running.folder / KEYS)
    allowed = {200, 500} | REFUSED if not running.socket else {200} | REFUSED
    process = running.find_process()
    assert process is not None and server.is_healthy(running)
    workers, start = _list_workers(process), time.monotonic()
    before = most = _measure_memory(process)
    seen: Counter[int] = Counter()
    with httpx.Client(base_url=endpoint.address, timeout=REQUEST_S, trust_env=False) as client:
        for number, hostile in enumerate(generate_inputs(pair, count)):
            answer = _post(client, hostile, endpoint.get_token())
            label = f"{number}: {hostile.label} {hostile.body[:200]!r} got {answer.status_code} {answer.text[:500]}"
            assert answer.status_code in (allowed if hostile.is_form else {200} | REFUSED), label
            _check_body(answer.content, answer.status_code, label)
            if hostile.is_plain:
                _check_same(answer, service, hostile, label)
            seen[answer.status_code] += 1
            if number % 50 == 0:
                assert server.is_healthy(running), label
                most = np.maximum(most, _measure_memory(process))
    seconds, sizes = time.monotonic() - start, f"server and workers {before.round()} MB before, {most.round()} at most"
    print(f"\n{count} hostile inputs in {seconds:.0f} s: {dict(sorted(seen.items()))}; {sizes}")
    assert server.is_healthy(running) and _list_workers(process) == workers, "a worker was restarted"
    assert most[0] < JAVA_MB and most[1] - before[1] < GROWTH_MB


def _make_request(hostile: Hostile) -> Request:
    return Request(hostile.body, explain=hostile.path.startswith(EXPLANATIONS))


def _post(client: httpx.Client, hostile: Hostile, token: str) -> httpx.Response:
    headers = [*hostile.headers, ("Authorization", f"Bearer {token}")]
    return client.post(hostile.path, content=hostile.body, headers=headers)


def _check_body(body: bytes, status: int, label: str) -> None:
    """Check that an answer has only finite numbers, and that an error has a message without traceback or local path."""
    answer = json.loads(body, parse_constant=lambda constant: pytest.fail(f"{label}: {constant}")) if body else {}
    if status == 200:
        assert answer, label
    else:
        assert not body or answer["message"], label
        assert b"Traceback" not in body and b"/tmp" not in body and b".py" not in body and len(body) < 5_000, label


def _check_same(answer: httpx.Response, service: Service, hostile: Hostile, label: str) -> None:
    reply = service.answer([_make_request(hostile)])[0][0]
    assert answer.status_code == reply.status, f"{label}; the service: {reply.body}"
    served, expected = answer.json(), json.loads(reply.body)
    del served["model"], expected["model"]
    if "scores" in expected:
        np.testing.assert_allclose(np.ravel(served.pop("scores")), np.ravel(expected.pop("scores")), atol=1e-5)
    if answer.status_code != 200:
        assert served == expected, label


def _list_workers(process: psutil.Process) -> set[int]:
    return {child.pid for child in process.children(recursive=True)}


def _measure_memory(process: psutil.Process) -> np.ndarray:
    """Return the resident megabytes of the server's process, and the sum for its workers."""
    workers = sum(child.memory_info().rss for child in process.children(recursive=True))
    return np.array([process.memory_info().rss, workers]) / 1e6
