"""Progress is a bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import pytest

from hire_model import progress
from hire_model.progress import format_duration, show_progress


def test_items_pass_through_and_the_last_line_has_total_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(range(5), "counting", status=lambda: "loss 1")) == list(range(5))
    assert capsys.readouterr().err.startswith("counting: 5/5 in 0:00, ")


@pytest.fixture
def set_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the duration of each item."""

    def set_clock(seconds: float) -> None:
        times = itertools.count(0, seconds)
        monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(times)))

    return set_clock


def test_lines_show_rate_and_remaining_time(
    set_seconds: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    set_seconds(6)
    list(show_progress(iter("abcd"), "reading", total=4, status=lambda: "fine"))
    assert capsys.readouterr().err.split("\n") == [
        "reading: 1/4, 0.2/s, 0:18 left, fine",
        "reading: 2/4, 0.2/s, 0:12 left, fine",
        "reading: 3/4, 0.2/s, 0:06 left, fine",
        "reading: 4/4 in 0:30, 0.1/s, fine",
        "",
    ]


@pytest.mark.parametrize("seconds", [0.5, 100])
def test_a_line_is_printed_every_ten_percent_and_at_the_end(
    seconds: float, set_seconds: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    set_seconds(seconds)
    list(show_progress(range(50), "reading"))
    counts = [line.split()[1].partition("/")[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["5", "10", "15", "20", "25", "30", "35", "40", "45", "50"]


def test_a_loop_of_less_than_a_second_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    list(show_progress(range(10_000), "fast"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_last_line_counts_the_items_if_there_are_fewer_than_announced(capsys: pytest.CaptureFixture[str]) -> None:
    list(show_progress(iter("ab"), "reading", total=4))
    assert capsys.readouterr().err.startswith("reading: 2/2 in 0:00, ")


def test_an_empty_loop_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress([], "counting")) == [] and capsys.readouterr().err == ""


def test_a_terminal_shows_one_bar_with_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(show_progress(range(5), "counting", status=lambda: "loss 1")) == list(range(5))
    bar = capsys.readouterr().err
    assert bar.count("\n") == 1 and "counting: 100%" in bar and "5/5" in bar and "loss 1" in bar


def test_without_a_total_only_the_last_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show_progress(iter("ab"), "streaming")) == ["a", "b"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("streaming: 2, ")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3600, "1:00:00"), (7325.2, "2:02:05")])
def test_format_duration_has_hours_only_from_one_hour(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
