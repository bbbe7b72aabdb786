"""Run `hire train`. In the first start, process 1 is killed after a step. test_elastic.py runs this with torchrun."""

from __future__ import annotations

import os
import signal
import sys

from hire_model.cli.main import run
from hire_model.training import loop

KILL_AFTER = 20  # steps: in the second epoch
_step = loop.train_step


def _step_and_die(state: loop.TrainState, *arguments: object) -> float:
    loss = _step(state, *arguments)  # type: ignore[arg-type]
    if os.environ["RANK"] == "1" and not resumed and state.steps == KILL_AFTER:
        open(marker, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return loss


if __name__ == "__main__":
    marker = sys.argv.pop(1)  # a file that exists after the kill
    resumed = os.path.exists(marker)
    loop.train_step = _step_and_die
    run()
