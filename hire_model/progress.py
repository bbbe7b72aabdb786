"""Progress with rate and time left: a bar on a terminal, a plain line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from hire_model.stopping import heed

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0
_FASTEST_LINES = 1.0


def track(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    status: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yield from `iterable` and show on stderr how far it is, how fast it goes and how long it still takes.

    total defaults to len(iterable) where it has one. status, if given, is asked for a few words to show behind (a
    loss, say). On a terminal this is one bar; elsewhere one line every ten seconds or ten per cent, and a last one.
    A signal that was to end the command ends it between two items, whatever became of its exception.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    shown = _bar if sys.stderr.isatty() else _lines
    for item in shown(iterable, description, total, status):
        yield item
        heed()


def _bar(iterable: Iterable[T], description: str, total: int | None, status: Callable[[], str] | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, rate="", status="")
        for item in iterable:
            yield item
            speed = progress.tasks[task].speed
            rate = f"{speed:.1f}/s" if speed else ""
            progress.update(task, advance=1, rate=rate, status=status() if status else "")


def _lines(iterable: Iterable[T], description: str, total: int | None, status: Callable[[], str] | None) -> Iterator[T]:
    start = last = time.monotonic()
    done = shown = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        tenth = total is not None and (done - shown) * 10 >= total and now - last >= _FASTEST_LINES
        if (tenth or now - last >= _SECONDS_BETWEEN_LINES) and done != total:
            _print_line(description, done, total, now - start, status)
            last, shown = now, done
    if done:
        _print_line(description, done, total, time.monotonic() - start, status)


def _print_line(
    description: str, done: int, total: int | None, seconds: float, status: Callable[[], str] | None
) -> None:
    rate = done / max(seconds, 1e-9)
    words = f"{description}: {done:,}" + (f"/{total:,}" if total is not None else "")
    if done != total:
        words += f", {rate:,.1f}/s" + (f", {clock((total - done) / rate)} left" if total and rate else "")
    else:
        words += f" in {clock(seconds)}, {rate:,.1f}/s"
    extra = status() if status else ""
    print(f"{words}{', ' if extra else ''}{extra}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
