"""Faults of a real TorchServe under load: no good request answered wrongly, none lost to a client that tries again."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from registered import RegisteredModel

from hire_model.data.store import ImageRegions, Split
from hire_model.scoring.scorer import Scorer
from serving import server
from serving.client import HireClient
from serving.contract import PREDICTIONS
from serving.instance import Instance

pytestmark = pytest.mark.live
KILLS, EVERY_S, CLIENTS = 5, 3.0, 3
DEADLINE_S = 240.0  # a machine that others use too may take half a minute to start a worker


class Load:
    """Clients that keep asking for scores that are known, until the block ends."""

    def __init__(self, folder: Path, pairs: list[tuple[ImageRegions, str]], expected: np.ndarray) -> None:
        self.folder, self.pairs, self.expected = folder, pairs, expected
        self.right, self.lost, self.slowest = 0, list[str](), 0.0
        self._end = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for one in threads:
            one.start()
        try:
            yield
        finally:
            self._end.set()
            for one in threads:
                one.join()

    def said(self) -> str:
        return f"{self.right} requests answered right, {len(self.lost)} lost, slowest {self.slowest:.1f} s"

    def _ask(self, number: int) -> None:
        turn = number
        with HireClient(self.folder, deadline=DEADLINE_S) as client:
            while not self._end.is_set():
                turn, start = turn + 1, time.monotonic()
                few = [(turn + step) % len(self.pairs) for step in range(1 + turn % 3)]
                try:
                    scores = client.score([self.pairs[i] for i in few]).scores
                    np.testing.assert_allclose(scores, self.expected[few], atol=1e-5)
                    self.right += 1
                except Exception as error:
                    self.lost.append(repr(error))
                self.slowest = max(self.slowest, time.monotonic() - start)


@pytest.fixture
def load(torchserve: Instance, registered_model: RegisteredModel, scenes: Split) -> Load:
    pairs = [(scenes.regions(i), scenes.texts[i]) for i in range(8)]
    return Load(torchserve.folder.parent, pairs, Scorer.load(registered_model.folder).predict(pairs))


def test_a_worker_killed_every_few_seconds(torchserve: Instance, load: Load) -> None:
    process = torchserve.process()
    assert process is not None
    killed = list[int]()
    with load.running():
        end = time.monotonic() + DEADLINE_S
        while len(killed) < KILLS and time.monotonic() < end:
            time.sleep(EVERY_S)
            for worker in _workers(process):
                if worker.pid not in killed:
                    worker.kill()
                    killed.append(worker.pid)
        before = load.right
        server.wait(torchserve)
        time.sleep(EVERY_S)
    print(f"\n{len(killed)} kills, {load.said()}")
    assert len(killed) >= KILLS and not load.lost and load.right > before, load.lost[:3]
    assert server.healthy(torchserve) and len(_workers(process)) == 1


def test_slow_clients_half_requests_and_large_bodies(torchserve: Instance, load: Load) -> None:
    token = f"Authorization: Bearer {torchserve.token()}\r\n"
    head = f"POST {PREDICTIONS} HTTP/1.1\r\nHost: a\r\n{token}Content-Type: application/json\r\n".encode()
    halves = [
        b"", b"P", b"POST ", head, head + b"Content-Length: 1000\r\n\r\n", head + b"Content-Length: 1000\r\n\r\n{",
        head + b"Transfer-Encoding: chunked\r\n\r\nffffff\r\n{", head + b"X: " + b"a" * 8_000,
    ]  # fmt: skip
    nonsense = [
        b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", bytes(10_000), head + b"Content-Length: -1\r\n\r\n{}",
        head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        head + b"Content-Length: 99999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]  # fmt: skip
    with load.running(), contextlib.ExitStack() as stack:
        for said in halves * 5:
            _connect(torchserve, stack).sendall(said)
        for said in nonsense:
            raw = _connect(torchserve, stack)
            raw.sendall(said)
            raw.settimeout(5)
            with contextlib.suppress(OSError):
                assert not raw.recv(100).startswith(b"HTTP/1.1 200"), said
        before = load.right
        for size in ((16 << 20) + 1, 40 << 20):
            answer = httpx.post(
                torchserve.address + PREDICTIONS, content=bytes(size), timeout=60,
                headers={"Authorization": f"Bearer {torchserve.token()}", "Content-Type": "application/json"},
            )  # fmt: skip
            assert (answer.status_code, answer.content) == (413, b"")
        end = time.monotonic() + DEADLINE_S
        while load.right < before + 30 and time.monotonic() < end:
            time.sleep(0.2)
    print(f"\n{load.said()}")
    assert not load.lost and load.right >= before + 30, load.lost[:3]
    assert server.healthy(torchserve)


def _connect(instance: Instance, stack: contextlib.ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", instance.inference_port), timeout=60))


def _workers(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("model_service_worker" in word for word in child.cmdline()):
                found.append(child)
    return found
