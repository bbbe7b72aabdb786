"""What `hire serve` does: start a server, check it with the golden pairs, and replace the current one without downtime.

The folder (runs/serve) has a subfolder per server, the link `current` to the current one, `upstream.conf` for the nginx
proxy, and the files of address.py. Clients use the address of the front (front.py), which stays the same. To replace a
server:

1. Start the new server beside the current one, on other ports, and check its scores for the golden pairs.
2. Record what should run. Replace `current` and `upstream.conf`, and make nginx reload.
3. Stop the old server when its open requests are answered.

No request is lost if the client uses the front or the proxy, or reads `current` again before it retries.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from hire_model import telemetry
from hire_model.data.schema import MANIFEST
from hire_model.files import remove_leftovers, write_text
from hire_model.gallery.format import format_rebuild_command
from hire_model.monitoring.journal import JournalSettings
from hire_model.packaging.verify import verify
from hire_model.tracking.versions import Archive
from serving import gunicorn_server, torchserve
from serving.address import PORT, STATE, ServeState, find_front, read_state, record_front, start_front, write_state
from serving.front import FRONT
from serving.probe import is_healthy, read_golden, send_request, wait_until_ready
from serving.process import RECORD, Deployment, Kind, ServeError, Server

log = logging.getLogger(__name__)
EXAMPLE = "example.json"  # a request body to try with curl
TOKEN, TARGETS = "token.conf", "targets.json"  # for nginx and for Prometheus (serving/deploy)
CURRENT, UPSTREAM, PROXY_PID = "current", "upstream.conf", "nginx.pid"
STARTS: dict[Kind, Callable[[Deployment, Path], Server]] = {
    "torchserve": torchserve.start,
    "gunicorn": gunicorn_server.start,
}

DRAIN_S = 16.0  # the server answers a request within 15 s or fails it


@dataclass(frozen=True)
class Status:
    """State of a running server. Memory is resident megabytes; `worker_mb` has one entry per worker process.

    address: that of the front; empty if the front is not running.
    """

    server: Server
    healthy: bool
    memory_mb: float
    worker_mb: list[float]
    address: str


def serve(
    archive: Archive,
    folder: Path,
    *,
    version: str = "",
    kind: Kind | None = None,
    port: int | None = None,
    workers: int | None = None,
    galleries: Path | None = None,
    journal: JournalSettings | None = None,
) -> Server:
    """Serve `archive` as the current server of `folder`. Return when it scores its golden pairs correctly.

    Arguments that are None keep the values of the server that was started last, also if it has crashed. After `stop`,
    the default is TorchServe on port 8080, one worker, no galleries and no journal.

    Args:
        archive: the archive.
        folder: the folder of the servers.
        version: the archive's version as the user named it; recorded.
        kind: which server.
        port: port of the front.
        workers: worker processes.
        galleries: folder of galleries.
        journal: where to record served scores.

    Raises:
        HireError: No Java, a tampered archive, or a server that does not start or scores differently. Then the running
            server stays current. A gallery that the version cannot use is only a warning.
    """
    verify(archive.path, archive.sha256)
    if galleries and not galleries.is_dir():
        raise ServeError(f"{galleries}: no such folder. Name one: hire serve --galleries FOLDER.")
    if problem := telemetry.find_problem():
        log.warning(problem)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_leftovers(archive.path.parent, f".{archive.path.stem}.", archive.path.suffix)
    for prefix in ("hire-package-", "hire-rehearsal-"):
        remove_leftovers(Path(tempfile.gettempdir()), prefix)
    with _lock(folder):
        state = read_state(folder) or ServeState(version="", port=PORT, workers=1)
        given = {
            "kind": kind, "port": port, "workers": workers, "galleries": galleries and galleries.resolve(),
            "journal": journal,
        }  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        new_state = state.model_copy(update=given | {"version": version or archive.version.number})
        old, old_front = find_current(folder), find_front(folder)
        if old and old.inference_port == new_state.port:
            raise ServeError("A server of an earlier release is running. Stop it first: hire serve --stop")
        front = start_front(folder, new_state.port)
        try:
            new = _replace(archive, folder, new_state)
        except BaseException:
            if front != old_front:
                front.stop()
                if old_front:
                    record_front(old_front)
            raise
        if old_front and old_front != front:
            old_front.stop()
        return new


def _replace(archive: Archive, folder: Path, state: ServeState) -> Server:
    old, galleries = find_current(folder), state.galleries
    if galleries and not galleries.is_dir():  # a remembered folder; the rest can still be served
        log.warning("%s: no such folder. Until it exists, requests for galleries are refused.", galleries)
    new_folder = Path(tempfile.mkdtemp(prefix=f"v{archive.version.number}-", dir=folder))
    try:
        deployment = Deployment(
            archive.path, archive.sha256, archive.version.number, state.workers, galleries, state.journal
        )
        new = STARTS[state.kind](deployment, new_folder)
        try:
            wait_until_ready(new)
            _warn_of_unusable_galleries(new, galleries, archive.version.uri)
            _write_access_files(new)
        except BaseException:
            new.stop()
            raise
    except BaseException:
        shutil.rmtree(new_folder, ignore_errors=True)
        raise
    write_state(folder, state)
    _make_current(folder, new)
    if old is not None:
        _drain(old)
    _stop_all(folder, keep=new)
    return new


def stop(folder: Path) -> list[Server]:
    """Stop all servers of `folder` and its front, and forget its settings. Return the servers when they have ended."""
    if not folder.is_dir():
        return []
    with _lock(folder):
        (folder / STATE).unlink(missing_ok=True)
        if front := find_front(folder):
            front.stop()
        (folder / FRONT).unlink(missing_ok=True)
        (folder / CURRENT).unlink(missing_ok=True)
        return _stop_all(folder)


def get_status(folder: Path) -> Status | None:
    """Return the state of the current server, or None if no server is running."""
    server = find_current(folder)
    process = server.find_process() if server else None
    if server is None or process is None:
        return None
    workers = [_measure_mb(child) for child in process.children(recursive=True)]
    front = find_front(folder)
    memory = _measure_mb(process) + sum(workers)
    return Status(server, is_healthy(server) and front is not None, memory, workers, front.address if front else "")


def _measure_mb(process: psutil.Process) -> float:
    """Return the resident megabytes. Memory that processes share is divided among them."""
    return process.memory_full_info().pss / 1e6


def find_crashed_version(folder: Path) -> str:
    """Return the version that should be served, as the user named it, if no server is running; else an empty string."""
    state = read_state(folder)
    return state.version if state and find_current(folder) is None else ""


def find_current(folder: Path) -> Server | None:
    """Return the current server of `folder` if it is running."""
    return _read_record(folder / CURRENT)


def _read_record(server_folder: Path) -> Server | None:
    try:
        server = Server.model_validate_json((server_folder / RECORD).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        message = f"{server_folder / RECORD}: not the record of a server: {error}. Delete {server_folder}."
        raise ServeError(message) from error
    return server if server.find_process() else None


def _warn_of_unusable_galleries(new: Server, galleries: Path | None, model: str) -> None:
    """Log each gallery that the server `new` cannot use, with the command that builds it again.

    A gallery fits only the model that encoded it. The other galleries and all other requests are served, so that a
    rollback never waits for a gallery.
    """
    for manifest in sorted(galleries.glob(f"*/{MANIFEST}")) if galleries else []:
        gallery = manifest.parent
        answer = send_request(new, {"gallery": gallery.name, "texts": ["a"], "top_k": 1}, probe=True)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            log.warning(
                "%s: version %s cannot use this gallery: another model encoded it, or it is damaged. Its requests get "
                "404 until you build it again, which needs no restart:\n  %s",
                gallery,
                new.version,
                format_rebuild_command(gallery, model),
            )


def _write_access_files(server: Server) -> None:
    """Write the files that curl, the proxy and Prometheus use into the server's folder, which only its owner can read.

    `get_token` writes header.txt.
    """
    write_text(json.dumps(read_golden(server).request), server.folder / EXAMPLE)
    lines = [f'proxy_set_header Authorization "Bearer {server.get_token()}";']
    if server.socket:
        lines.append('proxy_set_header X-Request-Start "t=$msec";')
    write_text("\n".join(lines) + "\n", server.folder / TOKEN)
    target = {"targets": [f"127.0.0.1:{server.metrics_port}"], "labels": {"version": server.version}}
    write_text(json.dumps([target]) + "\n", server.folder / TARGETS)


def _make_current(folder: Path, new: Server) -> None:
    """Replace `current` and the upstream of the proxy, each atomically. Make nginx reload if it is running."""
    link = folder / f".{CURRENT}.new"
    link.unlink(missing_ok=True)  # left by a killed process; the lock is held
    link.symlink_to(new.folder.name, target_is_directory=True)
    os.replace(link, folder / CURRENT)
    write_text(f"server {new.upstream};\n", folder / UPSTREAM)
    try:
        proxy = psutil.Process(int((folder / PROXY_PID).read_text("utf-8")))
        if proxy.name() == "nginx":  # an old pid file may contain the pid of another program
            proxy.send_signal(signal.SIGHUP)  # reload the configuration
    except (FileNotFoundError, psutil.Error, ValueError) as error:
        log.debug("No proxy was reloaded: %s", error)


def _drain(old: Server) -> None:
    """Wait until no client is connected to the old server, at most DRAIN_S seconds."""
    end = time.monotonic() + DRAIN_S
    while time.monotonic() < end and old.is_connected():
        time.sleep(0.2)


def _stop_all(folder: Path, keep: Server | None = None) -> list[Server]:
    """Stop all servers but `keep`, also those that a killed `hire serve` did not stop. Keep the newest old logs."""
    all_folders = sorted(folder.glob("v*-*"), key=lambda path: path.stat().st_mtime)
    folders = [path for path in all_folders if keep is None or path.name != keep.folder.name]
    running = [server for path in folders if (server := _read_record(path)) is not None]
    for server in running:
        server.stop()
        shutil.rmtree(server.folder / "store", ignore_errors=True)
    for path in folders[:-1]:
        shutil.rmtree(path, ignore_errors=True)
    return running


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let only one `hire serve` at a time change the current server."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ServeError(f"Another 'hire serve' is running in {folder}. Wait until it has ended.") from error
