"""Promotions in other processes, for tests in which two run at once or one is killed. A fork server starts them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
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


def promote_at_barrier(
    settings: TrackingSettings, version: str, barrier: Barrier, outcomes: Queue[tuple[str, str]]
) -> None:
    """Wait for the other processes, promote `version`, and put (version, "won" or the error) into `outcomes`."""
    barrier.wait(120)
    try:
        promotion.promote(settings, version)
        outcomes.put((version, "won"))
    except HireError as error:
        outcomes.put((version, f"{type(error).__name__}: {error}"))


def kill_before_write(settings: TrackingSettings, version: str, write: int) -> None:
    """Promote `version` ("" to roll back), and kill this process (SIGKILL) before its write number `write` (from 0)."""
    done = 0

    def count(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            if done == write:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return real(*arguments, **options)

        return call

    for name in WRITES:
        setattr(mlflow.MlflowClient, name, count(getattr(mlflow.MlflowClient, name)))
    if version:
        promotion.promote(settings, version)
    else:
        promotion.roll_back(settings, "it is slow")
