"""Sum up what requests took, and pass the sums to the server's metrics once a second.

Writing the metrics of a request takes as long as scoring a pair: TorchServe prints a line for each figure, and
prometheus_client writes each to a file.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable
from threading import Lock, Timer

from hire_model.service.timings import Timings

log = logging.getLogger(__name__)
SECONDS = 1.0


class Counters:
    """Sums until the next call of `send`. Thread-safe. A killed process loses those of its last second.

    Args:
        send: receives the sums that are not zero, by name, in a thread of its own. An exception is only logged.
        seconds: the time from the first `add` to `send`.
    """

    def __init__(self, send: Callable[[dict[str, float]], None], seconds: float = SECONDS) -> None:
        self._send, self._seconds = send, seconds
        self._lock = Lock()
        self._work, self._sums = Timings(), dict[str, float]()
        self._timer: Timer | None = None

    def add(self, timings: Timings, **sums: float) -> None:
        """Add what a request took, and further sums of the server."""
        with self._lock:
            self._work.add(timings)
            for name, value in sums.items():
                self._sums[name] = self._sums.get(name, 0) + value
            if self._timer is None:
                self._start()

    def flush(self) -> None:
        """Pass the sums on now. Also runs when the process exits normally."""
        with self._lock:
            sums, self._sums, self._timer = self._sums | self._work.to_counters(), {}, None
            self._work = Timings()
        sums = {name: value for name, value in sums.items() if value}
        if not sums:
            return
        try:
            self._send(sums)
        except Exception:
            log.exception("Cannot write the metrics")

    def _start(self) -> None:
        """Start the timer. Not done in the constructor, as a server may fork after it."""
        atexit.unregister(self.flush)
        atexit.register(self.flush)
        self._timer = Timer(self._seconds, self.flush)
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # no more threads: the next call tries again, so that no request fails
            self._timer = None
