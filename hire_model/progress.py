"""Show progress with rate and remaining time: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from hire_model.stopping import raise_if_signalled

T = TypeVar("T")
Status = Callable[[], str] | None
_MIN_SECONDS_BETWEEN_LINES = 1.0  # a loop that ends within a second prints only its final line


def show_progress(
    iterable: Iterable[T], description: str, total: int | None = None, status: Status = None
) -> Iterator[T]:
    """Yield the items of `iterable` and print progress, rate and remaining time to stderr.

    A terminal shows one bar. Otherwise one line is printed every 10 %, at most one per second, and one at the end.
    A received SIGINT or SIGTERM ends the loop before the next item (see `hire_model.stopping`).

    Args:
        iterable: the items
        description: the task; start of the bar or line
        total: number of items; default: `len(iterable)`, if it has a length. Without a total only the final line is
            printed.
        status: function that returns a short text for the end of the bar or line, such as the current loss
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    shown = _show_bar if sys.stderr.isatty() else _print_lines
    for item in shown(iterable, description, total, status):
        yield item
        raise_if_signalled()


def _show_bar(iterable: Iterable[T], description: str, total: int | None, status: Status) -> Iterator[T]:
    from tqdm import tqdm

    with tqdm(iterable, description, total, file=sys.stderr, dynamic_ncols=True) as bar:
        for item in bar:
            yield item
            if status:
                bar.set_postfix_str(status(), refresh=False)


def _print_lines(iterable: Iterable[T], description: str, total: int | None, status: Status) -> Iterator[T]:
    start = last = time.monotonic()
    done = printed_tenths = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        tenths = done * 10 // total if total else 0
        if printed_tenths < tenths < 10 and now - last >= _MIN_SECONDS_BETWEEN_LINES:
            _print_line(description, done, total, now - start, status)
            last, printed_tenths = now, tenths
    if done:
        _print_line(description, done, done if total else None, time.monotonic() - start, status)


def _print_line(description: str, done: int, total: int | None, seconds: float, status: Status) -> None:
    rate = done / max(seconds, 1e-9)
    line = f"{description}: {done:,}" + (f"/{total:,}" if total is not None else "")
    if done == total:
        line += f" in {format_duration(seconds)}, {rate:,.1f}/s"
    else:
        line += f", {rate:,.1f}/s" + (f", {format_duration((total - done) / rate)} left" if total and rate else "")
    extra = status() if status else ""
    print(f"{line}{', ' if extra else ''}{extra}", file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Return seconds as m:ss, from one hour as h:mm:ss."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
