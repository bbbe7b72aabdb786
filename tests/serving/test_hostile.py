"""Hostile inputs: no 5xx, no neighbour harmed, memory bounded, the server well afterwards.

A share of them runs with all tests. All of them:  HOSTILE=5000 python -m pytest tests/serving/test_hostile.py -s
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
from hostile_inputs import Hostile, inputs
from registered import RegisteredModel

from hire_model.data.store import Split
from hire_model.service.parsing import Request
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service
from serving import server
from serving.contract import EXPLANATIONS
from serving.instance import Instance

COUNT = int(os.environ.get("HOSTILE", "0"))
IN_PROCESS, SERVED = COUNT or 500, COUNT or 300
REFUSED = {400, 404, 405, 413, 415}
ASK_S, SLOW_S = 60.0, 15.0  # TorchServe would end the worker after 15 s
JAVA_MB, GROWTH_MB = 1000.0, 300.0  # Java: 512 of heap, 256 of buffers and its own; by how much the worker may grow

pytestmark = pytest.mark.timeout(600 + COUNT)


@pytest.fixture(scope="module")
def service(registered_model: RegisteredModel, galleries: Path) -> Service:
    return Service.load(registered_model.folder, version="1", galleries=galleries)


@pytest.fixture(scope="module")
def pair(scenes: Split) -> dict[str, Any]:
    return {"image": json.loads(serialize_image(scenes.regions(0))), "text": scenes.texts[0]}


def test_the_corpus_has_every_kind_and_is_the_same_again(pair: dict[str, Any]) -> None:
    once, again = list(inputs(pair, 400)), list(inputs(pair, 400))
    assert all(one == other for one, other in zip(once, again, strict=True)) and len(once) == 400
    kinds = {one.what.split()[0] for one in once}
    assert {"schemathesis,", "spoiled", "multipart", "form", "content", "path", "features", "shape"} <= kinds


def test_in_process_each_is_answered_and_its_neighbours_are_right(service: Service, pair: dict[str, Any]) -> None:
    good = Request(json.dumps({"pairs": [pair]}))
    expected = json.loads(service.answer([good])[0][0].body)["scores"]
    seen: Counter[int] = Counter()
    for number, hostile in enumerate(inputs(pair, IN_PROCESS)):
        start = time.process_time()
        before, reply, after = service.answer([good, _ask(hostile), good])[0]
        what = f"{number}: {hostile.what} {hostile.body[:200]!r}"
        assert time.process_time() - start < SLOW_S / 3, what
        assert reply.status in {200, 400, 404, 413}, f"{what} got {reply.body}"
        _check_body(reply.body.encode(), reply.status, what)
        for neighbour in (before, after):
            np.testing.assert_allclose(json.loads(neighbour.body)["scores"], expected, atol=1e-5, err_msg=what)
        seen[reply.status] += 1
    assert all(seen[status] for status in (200, 400, 404, 413)), seen


@pytest.mark.live
def test_a_real_server_answers_as_the_model_alone_does(
    torchserve: Instance, service: Service, pair: dict[str, Any]
) -> None:
    process = torchserve.process()
    assert process is not None and server.healthy(torchserve)
    workers, start = _workers(process), time.monotonic()
    before = most = _memory(process)
    seen: Counter[int] = Counter()
    with httpx.Client(base_url=torchserve.address, timeout=ASK_S, trust_env=False) as client:
        for number, hostile in enumerate(inputs(pair, SERVED)):
            answer = _send(client, hostile, torchserve.token())
            what = f"{number}: {hostile.what} {hostile.body[:200]!r} got {answer.status_code} {answer.text[:500]}"
            assert answer.status_code in ({200, 500} | REFUSED if hostile.form else {200} | REFUSED), what
            _check_body(answer.content, answer.status_code, what)
            if hostile.plain:
                _check_same(answer, service, hostile, what)
            seen[answer.status_code] += 1
            if number % 50 == 0:
                assert server.healthy(torchserve), what
                most = np.maximum(most, _memory(process))
    seconds, sizes = time.monotonic() - start, f"Java and worker {before.round()} MB before, {most.round()} at most"
    print(f"\n{SERVED} hostile inputs in {seconds:.0f} s: {dict(sorted(seen.items()))}; {sizes}")
    assert server.healthy(torchserve) and _workers(process) == workers, "the worker was never started again"
    assert most[0] < JAVA_MB and most[1] - before[1] < GROWTH_MB


def _ask(hostile: Hostile) -> Request:
    return Request(hostile.body, explain=hostile.path.startswith(EXPLANATIONS))


def _send(client: httpx.Client, hostile: Hostile, token: str) -> httpx.Response:
    headers = [*hostile.headers, ("Authorization", f"Bearer {token}")]
    return client.post(hostile.path, content=hostile.body, headers=headers)


def _check_body(body: bytes, status: int, what: str) -> None:
    """JSON in words, without a traceback or a path of this machine; what is answered 200 has only finite numbers."""
    said = json.loads(body, parse_constant=lambda constant: pytest.fail(f"{what}: {constant}")) if body else {}
    if status == 200:
        assert said, what
    else:
        assert not body or said["message"], what
        assert b"Traceback" not in body and b"/tmp" not in body and b".py" not in body and len(body) < 5_000, what


def _check_same(answer: httpx.Response, service: Service, hostile: Hostile, what: str) -> None:
    alone = service.answer([_ask(hostile)])[0][0]
    assert answer.status_code == alone.status, f"{what}; alone: {alone.body}"
    served, expected = answer.json(), json.loads(alone.body)
    del served["model"], expected["model"]
    if "scores" in expected:
        np.testing.assert_allclose(np.ravel(served.pop("scores")), np.ravel(expected.pop("scores")), atol=1e-5)
    if answer.status_code != 200:
        assert served == expected, what


def _workers(process: psutil.Process) -> set[int]:
    return {child.pid for child in process.children(recursive=True)}


def _memory(process: psutil.Process) -> np.ndarray:
    """Resident megabytes of Java, and of its workers together."""
    workers = sum(child.memory_info().rss for child in process.children(recursive=True))
    return np.array([process.memory_info().rss, workers]) / 1e6
