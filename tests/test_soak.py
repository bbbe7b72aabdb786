"""The clients of benchmarks/soak.py: they find wrong, outdated and lost answers. The servers are in tests/serving."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCORES = np.array([[0.1, 0.5], [0.3, 0.2], [0.9, 0.4], [0.8, 0.6], [0.7, 0.0], [0.6, 0.3], [1.0, 1.1]])
IDS = list("abcdefg")


@pytest.fixture(scope="module")
def soak_load() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import soak_load
    finally:
        sys.path.remove(str(FOLDER))
    return soak_load


def make_checker(soak: ModuleType) -> Any:
    """Two versions; 'g' is in the gallery only at times."""
    known = {"1": soak.Known("w1", SCORES, SCORES[:2] + 0.01, 6), "2": soak.Known("w2", -SCORES, -SCORES[:2], 6)}
    galleries = {version: soak.Timeline("base") for version in known}
    return soak.Checker(known, IDS, soak.Timeline("1"), galleries)


def make_answer(version: str, **fields: Any) -> bytes:
    return json.dumps({"model": {"version": version, "weights_sha256": f"w{version}"}} | fields).encode()


def make_search_answer(rows: list[int], size: int) -> bytes:
    hits = [{"id": IDS[row], "score": SCORES[row, 0]} for row in rows]
    return make_answer("1", size=size, results=[{"hits": hits}])


def test_a_wrong_score_another_version_and_other_weights_are_found(soak_load: ModuleType) -> None:
    checker, now = make_checker(soak_load), time.monotonic()
    question = soak_load.Question("stored", "", b"", (0, 2), (1, 0))
    good = make_answer("1", scores=[0.5, 0.9])
    assert checker.find_fault(question, good, now, now) == ""
    assert "differs by 1.0e-04" in checker.find_fault(question, make_answer("1", scores=[0.5, 0.9001]), now, now)
    assert "expected 1" in checker.find_fault(question, make_answer("2", scores=[-0.5, -0.9]), now, now)
    assert "another model" in checker.find_fault(question, good.replace(b"w1", b"w2"), now, now)
    assert "1 scores" in checker.find_fault(question, make_answer("1", scores=[0.5]), now, now)
    uploaded = soak_load.Question("uploaded", "", b"", (0,), (1,))
    assert checker.find_fault(uploaded, make_answer("1", scores=[0.51]), now, now) == ""


def test_the_old_version_may_answer_only_requests_that_were_sent_before_the_change_ended(soak_load: ModuleType) -> None:
    checker, question = make_checker(soak_load), soak_load.Question("stored", "", b"", (0,), (0,))
    old, new = make_answer("1", scores=[0.1]), make_answer("2", scores=[-0.1])
    before = time.monotonic()
    checker.version.begin("2")
    during = time.monotonic()
    checker.version.end()
    after = time.monotonic() + 1
    assert checker.find_fault(question, new, during, after) == checker.find_fault(question, old, during, after) == ""
    assert checker.find_fault(question, old, before, after) == checker.find_fault(question, new, after, after) == ""
    assert "version 1 answered" in checker.find_fault(question, old, after, after)
    assert "version 2 answered" in checker.find_fault(question, new, before - 2, before - 1)


def test_a_search_must_find_the_best_images_of_the_valid_content(soak_load: ModuleType) -> None:
    checker, question = make_checker(soak_load), soak_load.Question("search", "", b"", (), (0,))
    base, extended, now = make_search_answer([2, 3, 4, 5, 1], 6), make_search_answer([6, 2, 3, 4, 5], 7), 0.0
    assert checker.find_fault(question, base, now, now) == ""
    assert "7 images" in checker.find_fault(question, extended, now, now)
    assert "differs" in checker.find_fault(question, make_search_answer([2, 3, 4, 5, 0], 6), now, now)
    checker.galleries["1"].begin("all")
    now = time.monotonic()
    assert checker.find_fault(question, base, now, now) == checker.find_fault(question, extended, now, now) == ""
    checker.galleries["1"].end()
    now = time.monotonic() + 1
    assert checker.find_fault(question, extended, now, now) == ""
    assert "6 images" in checker.find_fault(question, base, now, now)


def test_clients_repeat_a_failed_request_and_count_a_refused_or_lost_one(
    soak_load: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server answers 503, drops the connection, answers 200, then 400, then 500 until the end."""
    monkeypatch.setattr(soak_load, "PAUSE_S", 0.0)
    monkeypatch.setattr(soak_load, "DEADLINE_S", 0.05)
    statuses = iter([503, 0, 200, 400])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            if not (status := next(statuses, 500)):
                break
            writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\n{}" % status)
        writer.close()

    async def run() -> Any:
        served = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = served.sockets[0].getsockname()[1]
        question = soak_load.Question("stored", "/", b"{}", (), ())
        load = soak_load.Load(port, "token", [question], [], lambda *_: "")
        connection = soak_load.Connection(port, "token")
        for _ in range(3):
            await load._ask(connection, question)
        connection.close()
        served.close()
        return load.tally

    tally = asyncio.run(run())
    assert (tally.sent, len(tally.latencies), len(tally.wrong), len(tally.lost)) == (3, 1, 1, 1)
    assert tally.statuses["200"] == tally.statuses["400"] == tally.statuses["503"] == tally.statuses["no answer"] == 1
    assert "400" in tally.wrong[0] and "500" in tally.lost[0]
