"""Ctrl-C and SIGTERM during training: record the signal, and stop between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Context in which Ctrl-C and SIGTERM only set `name`, which the training loop checks after each step.

    The same signal a second time has its usual effect at once. The other signal only sets `name` too: after Ctrl-C,
    `mlflow run` also sends SIGTERM to the training, which is then writing its checkpoint.

    Attributes:
        name: name of the first signal; None before it.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # handlers are only allowed there
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._before):
            self._restore(number)

    def _record(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        self.name = self.name or ("Ctrl-C" if received == signal.SIGINT else received.name)
        self._restore(received)

    def _restore(self, number: signal.Signals) -> None:
        before = self._before.pop(number, None)  # None: the signal arrived while __exit__ was restoring its handler
        if before is not None:
            signal.signal(number, before)  # type: ignore[arg-type]


def ignore_stop_signals(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a loader worker; DataLoader calls it with the worker's number.

    Ctrl-C and many schedulers signal all processes of a group, and a step fails if a worker ends.
    """
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
