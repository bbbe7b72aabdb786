"""Which failures are worth another try: those of networks and busy stores, and never a verdict."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import httpx
import requests
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import exponential_backoff
from sqlalchemy.exc import OperationalError

from hire_model.tracking.lease import PromotionBusy

_PASSING = (ConnectionError, TimeoutError, httpx.TransportError, requests.ConnectionError, requests.Timeout)
_PASSING_ERRNOS = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}
_PASSING_CODES = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}  # what MLflow calls HTTP's 503 and 429


def passes(error: BaseException) -> bool:
    """Whether `error`, or what it arose from, is a fault of I/O that another try may not meet.

    A file that is missing, a full disk, a wrong setting and data that fail validation stay as they are, so they do not
    count; neither does a task's own time-out.
    """
    return any(
        (isinstance(cause, _PASSING) and not isinstance(cause, TaskRunTimeoutError))
        or (isinstance(cause, OSError) and cause.errno in _PASSING_ERRNOS)
        or isinstance(cause, OperationalError | PromotionBusy)
        or getattr(cause, "error_code", "") in _PASSING_CODES
        for cause in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _condition(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, BaseException) and passes(state.data)


ON_IO: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _condition,
}
"""For @task: three more tries after 5, 10 and 20 seconds (and up to half as much again), where `passes` says so."""
