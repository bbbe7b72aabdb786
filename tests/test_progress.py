"""Plain lines without a terminal, a bar on one."""

from __future__ import annotations

import itertools
import sys

import pytest

from hire_model import progress
from hire_model.progress import format_duration, show_progress


def test_items_pass_through_and_the_last_line_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(range(5), "counting", status=lambda: "loss 1")) == list(range(5))
    assert capsys.readouterr().err.startswith("counting: 5/5 in 0:00, ")


def test_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    times = itertools.count(0, 6)  # each item takes six seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(times)))
    list(show_progress(iter("abcd"), "reading", total=4, status=lambda: "fine"))
    assert capsys.readouterr().err.split("\n") == [
        "reading: 1/4, 0.2/s, 0:18 left, fine",
        "reading: 2/4, 0.2/s, 0:12 left, fine",
        "reading: 3/4, 0.2/s, 0:06 left, fine",
        "reading: 4/4 in 0:30, 0.1/s, fine",
        "",
    ]


def test_many_fast_items_print_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    list(show_progress(range(10_000), "fast"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_nothing_to_do_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress([], "counting")) == [] and capsys.readouterr().err == ""


def test_a_terminal_shows_one_bar_with_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(show_progress(range(5), "counting", status=lambda: "loss 1")) == list(range(5))
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "counting: 100%" in shown and "5/5" in shown and "loss 1" in shown


def test_unknown_total(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(iter("ab"), "streaming")) == ["a", "b"]
    assert capsys.readouterr().err.startswith("streaming: 2, ")


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0:00"), (61, "1:01"), (3600, "1:00:00"), (7325.2, "2:02:05")])
def test_clock(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
