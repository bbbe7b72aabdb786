"""Faults of real servers under load: clients that retry lose no request and get no wrong score."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from processes import Endpoint, find_endpoint
from registered import RegisteredModel

from hire_model.data.store import ImageRegions, Split
from hire_model.scoring.scorer import Scorer
from serving import server
from serving.client import HireClient
from serving.contract import PREDICTIONS
from serving.process import Server
from serving.tokens import KEYS

pytestmark = pytest.mark.live
KILLS, CLIENTS = 5, 3
EVERY_S = {"torchserve": 3.0, "gunicorn": 0.5}  # seconds between two kills
DEADLINE_S = 240.0  # a busy machine may need half a minute to start a worker


class Load:
    """Clients that request known scores in a loop until the block ends."""

    def __init__(self, folder: Path, pairs: list[tuple[ImageRegions, str]], expected: np.ndarray) -> None:
        self.folder, self.pairs, self.expected = folder, pairs, expected
        self.correct, self.lost, self.slowest = 0, list[str](), 0.0
        self._end = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._send_requests, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in threads:
                thread.join()

    def summarize(self) -> str:
        return f"{self.correct} requests answered correctly, {len(self.lost)} lost, slowest {self.slowest:.1f} s"

    def _send_requests(self, number: int) -> None:
        turn = number
        with HireClient(self.folder, deadline=DEADLINE_S) as client:
            while not self._end.is_set():
                turn, start = turn + 1, time.monotonic()
                rows = [(turn + step) % len(self.pairs) for step in range(1 + turn % 3)]
                try:
                    scores = client.score([self.pairs[i] for i in rows]).scores
                    np.testing.assert_allclose(scores, self.expected[rows], atol=1e-5)
                    self.correct += 1
                except Exception as error:
                    self.lost.append(repr(error))
                self.slowest = max(self.slowest, time.monotonic() - start)


@pytest.fixture(params=["torchserve", "gunicorn"])
def running(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
def load(running: Server, registered_model: RegisteredModel, scenes: Split) -> Load:
    pairs = [(scenes.regions(i), scenes.texts[i]) for i in range(8)]
    return Load(running.folder.parent, pairs, Scorer.load(registered_model.folder).predict(pairs))


def test_no_request_is_lost_while_workers_are_killed_repeatedly(running: Server, load: Load) -> None:
    killed, every_s = list[int](), EVERY_S[running.kind]
    with load.running():
        end = time.monotonic() + DEADLINE_S
        while len(killed) < KILLS and time.monotonic() < end:
            time.sleep(every_s)
            for worker in running.list_workers():
                if worker.pid not in killed:
                    worker.kill()
                    killed.append(worker.pid)
        before = load.correct
        server.wait_until_ready(running)
        time.sleep(every_s)
    print(f"\n{len(killed)} kills, {load.summarize()}")
    assert len(killed) >= KILLS and not load.lost and load.correct > before, load.lost[:3]
    assert server.is_healthy(running) and len(running.list_workers()) == running.workers


def test_incomplete_malformed_and_large_requests_do_not_disturb_others(running: Server, load: Load) -> None:
    """TorchServe gets them directly, gunicorn through the front, because only its owner can open its socket."""
    endpoint = find_endpoint(running) if running.socket else Endpoint(running.address, running.folder / KEYS)
    token = f"Authorization: Bearer {endpoint.get_token()}\r\n"
    head = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\n{token}Content-Type: application/json\r\n".encode()
    incomplete = [
        b"", b"P", b"POST ", head, head + b"Content-Length: 1000\r\n\r\n", head + b"Content-Length: 1000\r\n\r\n{",
        head + b"Transfer-Encoding: chunked\r\n\r\nffffff\r\n{", head + b"X: " + b"a" * 8_000,
    ]  # fmt: skip
    malformed = [
        b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", bytes(10_000), head + b"Content-Length: -1\r\n\r\n{}",
        head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        head + b"Content-Length: 99999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]  # fmt: skip
    with load.running(), contextlib.ExitStack() as stack:
        for data in incomplete * 5:
            _connect(endpoint, stack).sendall(data)
        for data in malformed:
            raw = _connect(endpoint, stack)
            raw.sendall(data)
            raw.settimeout(5)
            with contextlib.suppress(OSError):
                assert not raw.recv(100).startswith(b"HTTP/1.1 200"), data
        before = load.correct
        for size in ((16 << 20) + 1, 40 << 20):
            answer = httpx.post(
                endpoint.address + PREDICTIONS, content=bytes(size), timeout=60, headers=endpoint.make_headers()
            )
            assert answer.status_code == 413 and (running.socket or answer.content == b"")
        end = time.monotonic() + DEADLINE_S
        while load.correct < before + 30 and time.monotonic() < end:
            time.sleep(0.2)
    print(f"\n{load.summarize()}")
    assert not load.lost and load.correct >= before + 30, load.lost[:3]
    assert server.is_healthy(running)


def _connect(endpoint: Endpoint, stack: contextlib.ExitStack) -> socket.socket:
    port = int(endpoint.address.rpartition(":")[2])
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
