"""What requests took is summed up and passed on once, later."""

from __future__ import annotations

import threading
import time

import pytest

from hire_model.service.counters import Counters
from hire_model.service.encoding import CacheCounts
from hire_model.service.timings import Stage, Timings


def make_timings() -> Timings:
    return Timings([Stage("decode", 0, 2_000_000), Stage("extract", 0, 1)], texts=CacheCounts(3, 1), pairs=2)


def test_the_sums_of_several_requests_are_passed_on_together_and_only_once() -> None:
    sent = list[dict[str, float]]()
    counters = Counters(sent.append, seconds=3600)
    for _ in range(3):
        counters.add(make_timings(), Requests2XX=1)
    assert not sent
    counters.flush()
    expected = {"HirePairs": 6, "HireTexts": 9, "HireTextCacheHits": 3, "HireDecodeMilliseconds": 6, "Requests2XX": 3}
    assert sent == [expected]
    counters.flush()
    assert sent == [expected]


def test_what_is_counted_is_passed_on_by_itself_again_and_again() -> None:
    sent, arrived = list[dict[str, float]](), threading.Event()

    def send(sums: dict[str, float]) -> None:
        sent.append(sums)
        arrived.set()

    counters = Counters(send, seconds=0.05)
    for _ in range(2):
        arrived.clear()
        counters.add(make_timings())
        assert arrived.wait(60)
    assert [sums["HirePairs"] for sums in sent] == [2, 2]


def test_metrics_that_cannot_be_written_are_logged_and_counting_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()

    def send(sums: dict[str, float]) -> None:
        failed.set()
        raise OSError("no space")

    counters = Counters(send, seconds=0.05)
    for _ in range(2):
        failed.clear()
        counters.add(make_timings())
        assert failed.wait(60)
    end = time.monotonic() + 60
    while caplog.text.count("no space") < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert "Cannot write the metrics" in caplog.text


def test_a_request_does_not_fail_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = list[dict[str, float]]()
    counters = Counters(sent.append, seconds=3600)

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    counters.add(make_timings())
    counters.flush()
    assert sent[0]["HirePairs"] == 2
