"""Processes that promote, for tests of what happens when two do or one is killed: started by a fork server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Any

import mlflow

from hire_model.errors import HireError
from hire_model.settings import TrackingSettings
from hire_model.tracking import promotion

WRITES = (
    "create_registered_model",
    "create_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
)


def race(settings: TrackingSettings, version: str, start: float, answers: Queue[tuple[str, str]]) -> None:
    """Promote `version` at the moment `start` (time.time), and say how it went."""
    time.sleep(max(0.0, start - time.time()))
    try:
        promotion.promote(settings, version)
        answers.put((version, "won"))
    except HireError as error:
        answers.put((version, f"{type(error).__name__}: {error}"))


def killed_before(settings: TrackingSettings, version: str, write: int) -> None:
    """Promote `version`, or roll back without one, and be killed (SIGKILL) before its write number `write` (from 0)."""
    done = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            if done == write:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return real(*arguments, **named)

        return call

    for name in WRITES:
        setattr(mlflow.MlflowClient, name, counted(getattr(mlflow.MlflowClient, name)))
    if version:
        promotion.promote(settings, version)
    else:
        promotion.roll_back(settings, "it is slow")
