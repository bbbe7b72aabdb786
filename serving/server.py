"""`hire serve`: one server in force, its golden pairs scored through it, and the change to another without a gap.

The folder (runs/serve) holds a folder per server, the link `current` to the one in force, and `upstream.conf` for the
proxy. Another version is started beside the one in force, on other ports; when its golden pairs are right, `current`
and `upstream.conf` are exchanged, the proxy is told, and the old server ends after it has answered what it had taken.
A client that reads `current` anew before it tries again loses no request, nor does any client behind the proxy.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx
import psutil
from filelock import FileLock, Timeout

from hire_model.data.schema import MANIFEST
from hire_model.files import write_text
from hire_model.monitoring.journal import JournalSettings
from hire_model.packaging.verify import GOLDEN, Golden, verify
from hire_model.service.contract import PROBE
from hire_model.tracking.versions import Archive
from serving.contract import PREDICTIONS
from serving.instance import RECORD, Instance, ServeError, free_ports, is_free, start

log = logging.getLogger(__name__)
EXAMPLE = "example.json"  # a request, for the curl line
TOKEN, TARGETS = "token.conf", "targets.json"  # for the proxy, and for Prometheus (serving/deploy)
CURRENT, UPSTREAM, PROXY_PID = "current", "upstream.conf", "nginx.pid"

START_S = 180.0
DRAIN_S = 16.0  # a request is answered within 15 s, or never


@dataclass(frozen=True)
class Status:
    """How a running server is."""

    instance: Instance
    healthy: bool
    memory_mb: float
    worker_mb: list[float]


def serve(
    archive: Archive,
    folder: Path,
    *,
    port: int = 8080,
    workers: int | None = None,
    galleries: Path | None = None,
    journal: JournalSettings | None = None,
) -> Instance:
    """Put the version of `archive` in force, and return once its golden pairs were scored right through the server.

    What is None stays as it is at the server in force; a first server has one worker, no galleries and no journal.
    Raises HireError: no Java, a tampered archive, a server that does not come up or scores differently, or that cannot
    use a gallery where another is in force; that one then stays so. A first server only warns of such a gallery.
    """
    verify(archive.path, archive.sha256)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(folder):
        return _replace(archive, folder, port, workers, galleries, journal)


def _replace(
    archive: Archive,
    folder: Path,
    port: int,
    workers: int | None,
    galleries: Path | None,
    journal: JournalSettings | None,
) -> Instance:
    old = current(folder)
    if old is not None:
        workers, galleries, journal = workers or old.workers, galleries or old.galleries, journal or old.journal
    if galleries and not galleries.is_dir():
        raise ServeError(f"{galleries}: no such folder. Name one: hire serve --galleries FOLDER.")
    chosen = port if is_free(port) else free_ports(1)[0]
    if old is None and chosen != port:
        raise ServeError(f"Port {port} is taken by another program. Name a free one: hire serve --port {chosen}")
    place = Path(tempfile.mkdtemp(prefix=f"v{archive.version.number}-", dir=folder))
    try:
        new = start(
            archive.path,
            archive.sha256,
            archive.version.number,
            place,
            port=chosen,
            workers=workers or 1,
            galleries=galleries,
            journal=journal,
        )
        try:
            wait(new)
            _check_galleries(new, galleries, first=old is None)
            _announce(new)
        except BaseException:
            new.stop()
            raise
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    _switch(folder, new)
    if old is not None:
        _drain(old)
    _end_all(folder, but=new)
    return new


def stop(folder: Path) -> list[Instance]:
    """End all servers of `folder`, and return them when they have ended."""
    if not folder.is_dir():
        return []
    with _alone(folder):
        (folder / CURRENT).unlink(missing_ok=True)
        return _end_all(folder)


def status(folder: Path) -> Status | None:
    """How the server in force is; None where none is running. Memory is resident megabytes."""
    running = current(folder)
    process = running.process() if running else None
    if running is None or process is None:
        return None
    workers = [child.memory_info().rss / 1e6 for child in process.children(recursive=True)]
    return Status(running, healthy(running), process.memory_info().rss / 1e6 + sum(workers), workers)


def current(folder: Path) -> Instance | None:
    """The server in force, if it runs."""
    return _read(folder / CURRENT)


def _read(place: Path) -> Instance | None:
    try:
        found = Instance.model_validate_json((place / RECORD).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ServeError(f"{place / RECORD}: no record of a server: {error}. Delete {place}.") from error
    return found if found.process() else None


def wait(instance: Instance, seconds: float = START_S) -> float:
    """Request for the golden pairs until they are right; returns the largest difference to their known scores.

    Raises ServeError where they come out wrong, or do not come within `seconds`.
    """
    golden = golden_of(instance)
    end, said = time.monotonic() + seconds, "nothing yet"
    while time.monotonic() < end:
        if instance.process() is None:
            raise ServeError(f"The server ended while starting. Its last words:\n{instance.last_words()}")
        try:
            answer = ask(instance, golden.request, probe=True)
        except (httpx.TransportError, ServeError) as error:  # not listening yet, or no tokens yet
            said = str(error)
        else:
            if answer.status_code == 200:
                apart = golden.measure_difference(answer.json()["scores"])
                if apart <= Golden.TOLERANCE:
                    return apart
                raise ServeError(f"The server scores the golden pairs off by {apart:.1e}. It was stopped.")
            said = f"{answer.status_code} {answer.text[:300]}"
        time.sleep(0.2)
    raise ServeError(f"No golden pair was scored within {seconds:.0f} s; last: {said}\n{instance.last_words()}")


def ask(
    instance: Instance, request: object, path: str = PREDICTIONS, timeout: float = 20.0, probe: bool = False
) -> httpx.Response:
    """One request with a token. A probe is not written to the server's journal."""
    headers = {"Authorization": f"Bearer {instance.token()}"} | ({PROBE: "1"} if probe else {})
    return httpx.post(f"{instance.address}{path}", json=request, headers=headers, timeout=timeout)


def _check_galleries(new: Instance, folder: Path | None, *, first: bool) -> None:
    """Have the server `new` open every gallery in `folder`: one belongs to the model that has encoded it."""
    for manifest in sorted(folder.glob(f"*/{MANIFEST}")) if folder else []:
        answer = ask(new, {"gallery": manifest.parent.name, "texts": ["a"], "top_k": 1}, probe=True)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            message = (
                f"{manifest.parent}: version {new.version} cannot use this gallery, as another model encoded it, or it "
                f"is damaged. Build one: hire gallery build DATASET --model models:/NAME/{new.version} "
                f"--out FOLDER/{manifest.parent.name}, then hire serve --galleries FOLDER."
            )
            if not first:
                raise ServeError(f"{message} The version that was served still is.")
            log.warning("%s Until then it is refused.", message)


def healthy(instance: Instance) -> bool:
    """Whether its golden pairs come out right, now."""
    try:
        answer = ask(instance, golden_of(instance).request, probe=True)
    except (httpx.HTTPError, ServeError):
        return False
    return (
        answer.status_code == 200
        and golden_of(instance).measure_difference(answer.json()["scores"]) <= Golden.TOLERANCE
    )


def golden_of(instance: Instance) -> Golden:
    """The golden request of the archive that it serves, and the scores."""
    with zipfile.ZipFile(instance.folder / "store" / "hire.mar") as archive:
        return Golden.model_validate_json(archive.read(GOLDEN))


def _announce(new: Instance) -> None:
    """Write into its folder, which is its owner's alone, what curl, the proxy and Prometheus need of it."""
    write_text(json.dumps(golden_of(new).request), new.folder / EXAMPLE)
    write_text(f'proxy_set_header Authorization "Bearer {new.token()}";\n', new.folder / TOKEN)
    target = {"targets": [f"127.0.0.1:{new.metrics_port}"], "labels": {"version": new.version}}
    write_text(json.dumps([target]) + "\n", new.folder / TARGETS)


def _switch(folder: Path, new: Instance) -> None:
    """Exchange `current` and the proxy's upstream, each in one step, and tell the proxy if there is one."""
    link = folder / f".{CURRENT}.{os.getpid()}"
    link.symlink_to(new.folder.name, target_is_directory=True)
    os.replace(link, folder / CURRENT)
    write_text(f"server 127.0.0.1:{new.inference_port};\n", folder / UPSTREAM)
    try:
        proxy = psutil.Process(int((folder / PROXY_PID).read_text("utf-8")))
        if proxy.name() == "nginx":  # a file that was left behind may name anybody
            proxy.send_signal(signal.SIGHUP)  # it reads its configuration anew
    except (FileNotFoundError, psutil.Error, ValueError) as error:
        log.debug("No proxy was told: %s", error)


def _drain(old: Instance) -> None:
    """Wait while somebody is connected to the old server, but no longer than an answer can take."""
    end = time.monotonic() + DRAIN_S
    process = old.process()
    while process is not None and time.monotonic() < end and _connected(process, old.inference_port):
        time.sleep(0.2)


def _connected(process: psutil.Process, port: int) -> bool:
    try:
        open_ = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_ESTABLISHED and c.laddr and c.laddr.port == port for c in open_)


def _end_all(folder: Path, but: Instance | None = None) -> list[Instance]:
    """End whatever runs, also what a killed `hire serve` left behind; keep the logs of the last one that ended."""
    places = sorted(folder.glob("v*-*"), key=lambda place: place.stat().st_mtime)
    others = [place for place in places if but is None or place.name != but.folder.name]
    running = [found for place in others if (found := _read(place)) is not None]
    for one in running:
        one.stop()
        shutil.rmtree(one.folder / "store", ignore_errors=True)
    for place in others[:-1]:
        shutil.rmtree(place, ignore_errors=True)
    return running


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One `hire serve` at a time changes what is in force."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ServeError(f"Another 'hire serve' is at work in {folder}. Wait until it has ended.") from error
