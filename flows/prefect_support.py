"""What the flows need from Prefect beyond @flow and @task: artifacts, retries, cache keys, notifications, workarounds.

Importing this module sends the project's log lines to Prefect, sends Prefect's spans to the collector if there is one,
and removes Prefect's exit calls from forked processes.
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
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import requests
from opentelemetry import trace
from prefect import Flow, Task, runtime
from prefect.artifacts import (
    Artifact,
    ImageArtifact,
    MarkdownArtifact,
    TableArtifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_UI_URL
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import exponential_backoff
from sqlalchemy.exc import OperationalError

from hire_model import telemetry
from hire_model.data.schema import MANIFEST, hash_file
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.evaluation.provenance import describe_commands_with
from hire_model.evaluation.result import KS, Result
from hire_model.settings.fingerprint import hash_json
from hire_model.tracking.lease import PromotionBusy

# --- Names of runs, and artifacts: what a run shows in Prefect ---


def name_runs(step: str) -> Callable[[], str]:
    """Return the function for `flow_run_name`: the step with recipe, version and data set, if they are parameters."""

    def name_run() -> str:
        given = runtime.flow_run.parameters
        recipe, version, data = (str(given.get(key) or "") for key in ("recipe", "version", "data"))
        words = (step, Path(recipe).stem, version and f"version {version}", data and f"on {Path(data).name}")
        return " ".join(filter(None, words))

    return name_run


def _show(artifact: Artifact) -> None:
    """Create an artifact in the current run and, in a subflow, in the run that called it."""
    artifact.create()
    if parent := runtime.flow_run.parent_flow_run_id:
        artifact.model_copy(update={"flow_run_id": UUID(parent)}).create()


def show_table(key: str, rows: Sequence[Mapping[str, str]], description: str) -> None:
    """Show a table with one column per key of its rows."""
    _show(TableArtifact(key=key, description=description, table=[dict(row) for row in rows]))


def show_markdown(key: str, text: str) -> None:
    """Show a page of Markdown."""
    _show(MarkdownArtifact(key=key, markdown=text))


def show_page(key: str, path: Path, description: str, link: str = "") -> None:
    """Show where an HTML page is.

    Args:
        key: key of the artifact.
        path: file on the machine that ran the flow.
        description: what the page is.
        link: address of the page in MLflow's interface; "" if it is not there. A browser does not follow a link from
            Prefect's page to a file, so without `link` the artifact shows the file's address to copy.
    """
    address = path.resolve().as_uri()
    where = f"[{description}]({link})" if link else description
    note = "File on the machine that ran the flow. Copy this address into a browser there:"
    _show(MarkdownArtifact(key=key, description=description, markdown=f"{where}\n\n{note}\n\n`{address}`"))


def show_progress(key: str, description: str) -> Callable[[float], None]:
    """Show an empty progress bar. Return the function that sets it, from 0 to 1."""
    bar: Any = create_progress_artifact(0.0, key=key, description=description)

    def set_progress(share: float) -> None:
        update_progress_artifact(bar, 100 * share)

    return set_progress


def show_recall(results: Mapping[str, Result]) -> None:
    """Show the recall of each named model: a table with 95 % intervals, and the curve over K."""
    from hire_model.evaluation.plots import plot_recall_points

    first = next(iter(results.values()))
    title = f"{first.title}, {first.images:,} images, {first.captions:,} captions"
    show_table("recall", [_recall_row(name, result) for name, result in results.items()], title)
    picture = io.BytesIO()
    plot_recall_points(results).savefig(picture, format="png", dpi=110, facecolor="white")
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()  # needs no file server
    _show(ImageArtifact(key="recall-curve", description=f"Recall@K, {title}", image_url=url))


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
    """Return whether `error`, or an error that caused it, is an I/O fault that may be gone at the next try.

    A missing file, a full disk, a wrong setting and invalid data stay as they are, so they are not transient. The
    timeout of a task is not transient either: the next try would take as long.
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
"""For @task: up to three retries of a transient fault, after 5, 10 and 20 seconds, each up to 50 % longer."""


# --- Cache keys: what a cached result or a finished training depends on ---

_CODE_SUFFIXES = (".py", ".toml", ".json")


@cache
def hash_code(*packages: str) -> str:
    """Return the digest of the source, recipes and suites in `packages`."""
    files: dict[str, str] = {}
    for package in packages:
        spec = find_spec(package)
        assert spec and spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        paths = [path for path in folder.rglob("*") if path.suffix in _CODE_SUFFIXES]
        files |= {f"{package}/{path.relative_to(folder)}": hash_file(path).sha256 for path in paths}
    return hash_json(files)


def hash_folder(folder: Path) -> str:
    """Return the digest of the names and bytes of all files in `folder`."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return hash_json({str(path.relative_to(folder)): hash_file(path).sha256 for path in paths})


def read_data_state(folder: Path) -> list[Any]:
    """Return the digest of the data set in `folder`, and the size and modification time of each of its files.

    Size and time reveal a file that was changed without updating the manifest. Hashing every file would take as long as
    the work that the cache saves.
    """
    manifest = Dataset.open(folder).manifest
    files = []
    for name in [MANIFEST, *sorted(manifest.files)]:
        stat = (folder / name).stat()
        files.append((name, (stat.st_size, stat.st_mtime_ns)))
    return [manifest.digest, files]


# --- Notification: a webhook is called when a run ends, if Prefect has a Webhook block named 'hire-notify' ---

WEBHOOK_BLOCK = "hire-notify"
_log = logging.getLogger("hire_model.flows")


async def notify(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Send flow, run, state and message as JSON. If the webhook fails, log a warning; the run must not fail.

    Do not rename the parameters: for a killed run, Prefect passes them as keyword arguments.
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
        _log.warning(
            "The end of this run was not reported: the webhook of Prefect block '%s' failed: %s. Check its URL.",
            WEBHOOK_BLOCK,
            error,
        )


NOTIFY: dict[str, Any] = {"on_completion": [notify], "on_failure": [notify], "on_crashed": [notify]}
"""For @flow: call `notify` when a run ends."""


# --- Logs: the project's log lines go to the run, and a HireError is logged without a traceback ---

_LOGGERS = ("hire_model", "expectations")


class TracebackFilter(logging.Filter):
    """Replace the traceback of a HireError by its message; Prefect logs a traceback for every failure."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record that has a HireError. Return True, so every record is logged."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HireError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


def send_logs_to_prefect() -> None:
    """Send the lines of the project's loggers to the current run, and filter tracebacks from Prefect's loggers."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
            logger.addHandler(APILogHandler())
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(TracebackFilter())


# --- Traces: Prefect makes a span for each run of a flow or task; without a provider they go nowhere ---


def send_traces() -> None:
    """Send Prefect's spans to the collector of the environment, unless `opentelemetry-instrument` already does."""
    if problem := telemetry.find_problem():
        _log.warning(problem)
    elif telemetry.is_wanted() and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(telemetry.make_provider("hire-flows", {}))


# --- Provenance ---


def name_deployment() -> str:
    """Return the deployment whose run this process executes, "" without one. All of its flows are named hire."""
    return f"deployment hire/{runtime.deployment.name}" if runtime.deployment.name else ""


# --- Forks: processes forked while a flow runs, such as the workers of a data loader ---


def remove_exit_calls() -> None:
    """Remove Prefect's exit calls from a process that was just forked, so that it can end with status 0.

    At exit, Prefect's services for logs and events (3.8) drain their queues. A forked process does not have their
    threads, so an assertion fails and the process ends with status 1.
    """
    calls: list = threading._threading_atexits  # type: ignore[attr-defined]  # no public list exists
    calls[:] = [call for call in calls if not call.func.__module__.startswith("prefect.")]


send_logs_to_prefect()
send_traces()
describe_commands_with(name_deployment)
os.register_at_fork(after_in_child=remove_exit_calls)
