"""What the flows need from Prefect beyond @flow and @task: artifacts, retries, notifications, and workarounds.

Importing this module routes the project's log lines to Prefect and makes forked processes end normally.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import requests
from prefect import Flow, Task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_UI_URL
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import exponential_backoff
from sqlalchemy.exc import OperationalError

from hire_model.errors import HireError
from hire_model.evaluation.result import KS, Result
from hire_model.tracking.lease import PromotionBusy

# --- Artifacts: what a run shows in Prefect ---


def show_table(key: str, rows: Sequence[Mapping[str, str]], description: str) -> None:
    """Show a table with a column per key of its rows."""
    create_table_artifact([dict(row) for row in rows], key=key, description=description)


def show_markdown(key: str, text: str) -> None:
    """Show a page of Markdown."""
    create_markdown_artifact(text, key=key)


def show_link(key: str, path: Path, description: str) -> None:
    """Show a link to a file on the machine that ran the flow."""
    create_link_artifact(path.resolve().as_uri(), link_text=str(path), key=key, description=description)


def show_progress(key: str, description: str) -> Callable[[float], None]:
    """Show a progress bar at 0; the returned function moves it to a share in 0-1."""
    bar: Any = create_progress_artifact(0.0, key=key, description=description)

    def move(share: float) -> None:
        update_progress_artifact(bar, 100 * share)

    return move


def show_recall(results: Mapping[str, Result]) -> None:
    """Show the recall of models by name: a table with 95 % intervals, and the curve over K."""
    from hire_model.evaluation.plots import plot_recall_points

    first = next(iter(results.values()))
    title = f"{first.title}, {first.images:,} images, {first.captions:,} captions"
    show_table("recall", [_recall_row(name, result) for name, result in results.items()], title)
    picture = io.BytesIO()
    plot_recall_points(results).savefig(picture, format="png", dpi=110, facecolor="white")
    address = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()  # so no file server is needed
    create_image_artifact(address, key="recall-curve", description=f"Recall@K, {title}")


def _recall_row(name: str, result: Result) -> dict[str, str]:
    row = {"model": name, "rSum": _format_figure(result.rsum, result.rsum_interval)}
    for label, direction in (("i2t", result.i2t), ("t2i", result.t2i)):
        for k in KS:
            row[f"{label} R@{k}"] = _format_figure(getattr(direction, f"r{k}"), direction.intervals.get(f"r{k}"))
    return row


def _format_figure(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.1f}" + (f" ({interval[0]:.1f}–{interval[1]:.1f})" if interval else "")


# --- Retries: transient faults of networks and busy stores are retried, other failures are not ---

_TRANSIENT = (ConnectionError, TimeoutError, httpx.TransportError, requests.ConnectionError, requests.Timeout)
_TRANSIENT_ERRNOS = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}
_TRANSIENT_CODES = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}  # MLflow's names of HTTP 503 and 429


def is_transient(error: BaseException) -> bool:
    """Return whether `error`, or an error that caused it, is an I/O fault that a retry may not meet.

    A missing file, a full disk, a wrong setting and data that fail validation do not go away, so they do not count;
    neither does a task's own time-out.
    """
    return any(
        (isinstance(cause, _TRANSIENT) and not isinstance(cause, TaskRunTimeoutError))
        or (isinstance(cause, OSError) and cause.errno in _TRANSIENT_ERRNOS)
        or isinstance(cause, OperationalError | PromotionBusy)
        or getattr(cause, "error_code", "") in _TRANSIENT_CODES
        for cause in _walk_causes(error)
    )


def _walk_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _should_retry(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, BaseException) and is_transient(state.data)


RETRY_IO: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _should_retry,
}
"""For @task: three retries after 5, 10 and 20 seconds (plus up to half as much again), if `is_transient`."""


# --- Notification: the end of a run, sent to a webhook. Off until a Prefect block of type Webhook is 'hire-notify' ---

WEBHOOK_BLOCK = "hire-notify"
_log = logging.getLogger("hire_model.flows")


async def notify(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Send flow, run, state and message as JSON. A webhook that fails is a warning: it must not fail the run.

    Prefect fixes the names of the parameters: for a killed run it passes them by name.
    """
    try:
        hook: Any = await Webhook.aload(WEBHOOK_BLOCK)
    except ValueError:  # no such block
        return
    page = f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}" if PREFECT_UI_URL.value() else ""
    body = {"flow": flow.name, "run": flow_run.name, "state": state.name, "message": state.message or "", "url": page}
    try:
        async with asyncio.timeout(20):
            (await hook.call(body)).raise_for_status()
    except Exception as error:
        _log.warning("The webhook of block %s took no word of this run: %s", WEBHOOK_BLOCK, error)


NOTIFY: dict[str, Any] = {"on_completion": [notify], "on_failure": [notify], "on_crashed": [notify]}
"""For @flow: call `notify` when a run ends."""


# --- Logs: the project's own log lines go to the run, and a HireError shows its message without a traceback ---

_LOGGERS = ("hire_model", "expectations")


class TracebackFilter(logging.Filter):
    """Replace the traceback of a HireError, which Prefect logs for every failure, by its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record if it has a HireError; always return True."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HireError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


def send_logs_to_prefect() -> None:
    """Send our loggers' lines to the run that they arise in, and filter the loggers of runs."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
            logger.addHandler(APILogHandler())
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(TracebackFilter())


# --- Forks: processes forked while a flow runs, such as the workers of a data loader ---


def remove_exit_calls() -> None:
    """Remove the calls that Prefect makes when the interpreter ends, in a process that was just forked.

    Prefect's services for logs and events (3.8) drain their queues then. In a forked process their threads are gone: an
    assertion fails and the process ends with status 1, whatever it did.
    """
    calls: list = threading._threading_atexits  # type: ignore[attr-defined]  # there is no public list of them
    calls[:] = [call for call in calls if not call.func.__module__.startswith("prefect.")]


send_logs_to_prefect()
os.register_at_fork(after_in_child=remove_exit_calls)
