"""End a command on Ctrl-C and SIGTERM, even if a library swallows the exception that they raise.

Python raises the exception in whatever code the main thread runs. Compiled code that cannot pass it on (numpy's
Generator.choice, a destructor) drops it, and the command would continue.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_received: int | None = None


def install_signal_handlers() -> None:
    """Make SIGTERM and SIGINT end this process by an exception, so that it removes its half-written folders."""
    signal.signal(signal.SIGTERM, _record_and_raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if it is ignored, as by `nohup &`
        signal.signal(signal.SIGINT, _record_and_raise)


def raise_if_signalled() -> None:
    """Raise the exception of a received signal again. Loops call this between two items."""
    if _received is not None:
        _raise_exit(_received)


def _record_and_raise(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    _raise_exit(number)


def _raise_exit(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
