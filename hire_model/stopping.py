"""Ctrl-C and SIGTERM end a command, also where a library has swallowed the exception that they raise.

Python raises it wherever the main thread happens to be. Compiled code that cannot pass it on (numpy's Generator.choice,
a destructor) drops it, and the command would run on as if nobody had asked.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_came: int | None = None


def end_on_signals() -> None:
    """From now on both signals end this process by an exception, so that no half-written folder stays behind."""
    signal.signal(signal.SIGTERM, _note)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not for a command that ignores it (`nohup &`)
        signal.signal(signal.SIGINT, _note)


def heed() -> None:
    """Raise again what a signal has raised before; for loops to call between two items."""
    if _came is not None:
        _end(_came)


def _note(number: int, frame: FrameType | None) -> None:
    global _came
    _came = number
    _end(number)


def _end(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
