"""Show progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from hire_model.stopping import raise_if_signalled

T = TypeVar("T")
Status = Callable[[], str] | None
_SECONDS_BETWEEN_LINES = 10.0
_MIN_SECONDS_BETWEEN_LINES = 1.0


def show_progress(
    iterable: Iterable[T], description: str, total: int | None = None, status: Status = None
) -> Iterator[T]:
    """Yield from `iterable`, and print progress, rate and remaining time to stderr.

    A terminal shows one bar. Otherwise a line is printed every ten seconds or ten per cent, and one at the end. Between
    two items, a signal that should end the command ends it (see `hire_model.stopping`).

    Args:
        iterable: the items
        description: what is being done, the start of the bar or line
        total: number of items; defaults to len(iterable) if it has a length
        status: called for a short text to show at the end, such as the current loss
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
    done = printed = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        tenth = total is not None and (done - printed) * 10 >= total and now - last >= _MIN_SECONDS_BETWEEN_LINES
        if (tenth or now - last >= _SECONDS_BETWEEN_LINES) and done != total:
            _print_line(description, done, total, now - start, status)
            last, printed = now, done
    if done:
        _print_line(description, done, total, time.monotonic() - start, status)


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
    """Return seconds as m:ss, or as h:mm:ss from one hour on."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
