"""Work on shards in this process, in several processes of this machine, or on a Ray cluster.

A shard must be repeatable, and a result that lies in files must be written atomically: if a process dies on a Ray
cluster, its shard runs again on another one. Files have the same paths on all machines of the cluster.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from hire_model.errors import HireError

Shard = TypeVar("Shard")
Result = TypeVar("Result")
State = TypeVar("State")
_RETRIES = 3  # of a shard whose process died
_AHEAD = 2  # shards per process that are handed out before a result is taken, so that neither piles up
_current: tuple[str, Any] | None = None  # job and state of this process


@dataclass(frozen=True)
class Workers:
    """Where shards are worked on.

    processes  of this machine; 1 for this process. Unused with Ray
    ray        address of a Ray cluster, such as auto or ray://HOST:10001; "" without Ray
    """

    processes: int = 1
    ray: str = ""

    @property
    def parallel(self) -> bool:
        """Whether other processes do the work."""
        return bool(self.ray) or self.processes > 1

    def run(
        self, start: Callable[[], State], work: Callable[[State, Shard], Result], shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Result]]:
        """Yield (shard, result) of each shard as it is finished. Other processes use one torch thread each.

        Args:
            start: called once in each process; returns what `work` needs.
            work: does one shard.
            shards: are taken a few at a time. All three must be picklable if other processes do the work.

        Raises:
            HireError: a process died, with Ray more often than a shard is repeated, or the cluster cannot be reached.
        """
        if self.ray:
            yield from _run_on_ray(self.ray, start, work, iter(shards))
        elif self.processes > 1:
            yield from _run_in_pool(self.processes, start, work, iter(shards))
        else:
            started: list[State] = []
            for shard in shards:
                started = started or [start()]
                yield shard, work(started[0], shard)


THIS_PROCESS = Workers()


def _run_in_pool(
    processes: int, start: Callable[[], State], work: Callable[[State, Shard], Result], shards: Iterator[Shard]
) -> Iterator[tuple[Shard, Result]]:
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_process, (start,))
    pending: dict[Future[Result], Shard] = {}
    try:
        while True:
            for shard in islice(shards, _AHEAD * processes - len(pending)):
                pending[pool.submit(_work_in_pool, work, shard)] = shard
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
    except BrokenProcessPool as error:
        raise HireError(
            "A worker process ended unexpectedly; perhaps memory ran out. Finished shards are kept: run the same "
            "command again, with a smaller --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(start: Callable[[], Any]) -> None:
    global _current
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the parent ends the workers in order
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _use_one_thread()
    _current = "", start()


def _exit_with_parent() -> None:
    """End this process when its parent is gone. A pool's workers would wait for work forever after a kill -9."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_in_pool(work: Callable[[Any, Shard], Result], shard: Shard) -> Result:
    assert _current is not None
    return work(_current[1], shard)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _run_on_ray(
    address: str, start: Callable[[], State], work: Callable[[State, Shard], Result], shards: Iterator[Shard]
) -> Iterator[tuple[Shard, Result]]:
    ray = _connect(address)
    job = _RayJob(uuid.uuid4().hex, [ray.put((start, work))], os.getcwd())
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_work_on_ray)
    pending: dict[Any, Shard] = {}
    try:
        while True:
            limit = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # machines come and go
            for shard in islice(shards, max(0, limit - len(pending))):
                pending[task.remote(job, shard)] = shard
            if not pending:
                return
            [done], _ = ray.wait(list(pending), num_returns=1)
            yield pending.pop(done), _take(ray, done)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


@dataclass(frozen=True)
class _RayJob:
    """One call of `run`. `function` has one item, a reference to (start, work): in a list, Ray does not resolve it."""

    name: str
    function: list[Any]
    folder: str


def _work_on_ray(job: _RayJob, shard: Any) -> Any:
    """Do one shard. The first one of a job in this process calls `start`, in the folder of the command."""
    global _current
    import ray

    if _current is None or _current[0] != job.name:
        try:
            os.chdir(job.folder)
        except OSError as error:
            raise HireError(
                f"{job.folder}: not on the machine {os.uname().nodename} of the cluster. Run the command in a folder "
                "that all machines have under the same path."
            ) from error
        _use_one_thread()
        start, work = ray.get(job.function[0])
        _current = job.name, (start(), work)
    state, work = _current[1]
    return work(state, shard)


def _connect(address: str) -> Any:
    """Connect this process to the cluster, once, and return the module ray."""
    try:
        import ray
    except ImportError as error:
        raise HireError(f"--ray {address}: Ray is not installed: pip install 'hire-model[ray]'.") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that this process starts
    if not ray.is_initialized():
        try:
            _check_port(address)
            ray.init(address, log_to_driver=False, configure_logging=False)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise HireError(
                f"--ray {address}: no cluster answers: {reason}. Start one with 'ray start --head', or give the "
                "address of a running one, with its RAY_AUTH_MODE and token; see docs/scale.md."
            ) from error
    return ray


def _check_port(address: str) -> None:
    """Raise OSError if nothing listens at an address with a port: Ray would try for minutes."""
    if match := re.fullmatch(r"(?:ray://)?(.+):([0-9]+)", address):
        socket.create_connection((match[1], int(match[2])), timeout=10).close()


def _take(ray: Any, reference: Any) -> Any:
    """Return the result of a finished shard, or raise its error."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HireError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise HireError(
            f"A shard was given up after {_RETRIES + 1} tries: {str(error).partition(chr(10))[0]} Run the same "
            "command again; it continues where it stopped."
        ) from error
