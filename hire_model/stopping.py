"""End a command on Ctrl-C and SIGTERM, even if a library suppresses the exception that the signal raises.

Python raises the exception in the code that the main thread runs at that moment. Compiled code that cannot propagate it
(numpy's Generator.choice, a destructor) drops it, and the command would continue.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_received: int | None = None


def install_signal_handlers() -> None:
    """Make SIGTERM and SIGINT end this process by an exception, so that it removes its incomplete folders."""
    signal.signal(signal.SIGTERM, _record_and_raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `nohup command &` ignores SIGINT: keep that
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
