"""What can go wrong while training: signals, numbers that are none, and the collapse of hardest-negative losses."""

from __future__ import annotations

import signal
import threading
from collections import deque
from dataclasses import dataclass, field
from types import FrameType, TracebackType

WINDOW = 50
_NEAR = 0.01


class StopRequest:
    """Within it, Ctrl-C and SIGTERM only set `name`, for the loop to see after a step; the same one again acts at once.

    The other one only sets it, too: on Ctrl-C `mlflow run` sends SIGTERM to a training that the terminal has already
    told, and that is writing its checkpoint.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # python allows handlers only there
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._before):
            self._give_back(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        came = signal.Signals(number)
        self.name = self.name or ("Ctrl-C" if came == signal.SIGINT else came.name)
        self._give_back(came)

    def _give_back(self, number: signal.Signals) -> None:
        before = self._before.pop(number, None)  # None: it came while __exit__ was giving it back
        if before is not None:
            signal.signal(number, before)  # type: ignore[arg-type]


@dataclass
class CollapseWatch:
    """Warns once when the final score's loss stays at the value it has if all pairs score alike.

    For the hardest-negative hinge that is 2 * margin (2 * B * margin where losses are summed over a batch of B): the
    model has mapped everything to one point, from where the hardest negatives do not let it out.
    """

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    warned: bool = False

    def add(self, loss: float, stuck: float) -> bool:
        """Count one batch's loss; True at the moment to warn: WINDOW batches in a row within 1 % of `stuck`."""
        self.ratios.append(loss / stuck)
        collapsed = len(self.ratios) == WINDOW and all(abs(ratio - 1) < _NEAR for ratio in self.ratios)
        if collapsed and not self.warned:
            self.warned = True
            return True
        return False


def collapse_advice(loss: str, stuck: float) -> str:
    """What to tell the user."""
    ways = "lower train.lr, a longer train.warmup"
    if loss == "hinge":
        ways += ", a larger train.sum_epochs (epochs over all negatives first), or train.loss=infonce"
    return (
        f"warning: the loss has stayed at {stuck:.3f} for {WINDOW} batches, the value of a model that scores all pairs "
        f"alike: training has collapsed. Start again with one of: {ways}."
    )
