"""The process of a server of any kind: its record, its environment, its start and its end.

A server has a folder with console.log, key_file.json and header.txt (tokens), store/hire.mar (its verified archive) and
server.json (the record below). It also has a scratch folder with a short path, for sockets.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
from pydantic import BaseModel, ConfigDict

from hire_model import telemetry
from hire_model.errors import HireError
from hire_model.files import write_text
from hire_model.monitoring.journal import JournalSettings
from hire_model.packaging.verify import verify
from hire_model.service.galleries import GALLERIES_VARIABLE
from serving.tokens import KEYS, write_header

RECORD, ARCHIVE = "server.json", "store/hire.mar"
QUEUE = 32  # requests that may wait for each worker; further ones get 503 at once
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "JAVA_HOME", "TZ")
_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
_STOP_S = 30
_CONNECTED = {b"02", b"03"}  # states in /proc/net/unix: waiting to be accepted, and accepted
Kind = Literal["torchserve", "gunicorn"]


class ServeError(HireError):
    """A server cannot be started, reached or stopped."""


@dataclass(frozen=True)
class Deployment:
    """What a new server serves, with how many workers, and with which galleries and journal."""

    archive: Path
    sha256: str
    version: str
    workers: int = 1
    galleries: Path | None = None
    journal: JournalSettings | None = None


class Server(BaseModel):
    """Record of a started server, saved as server.json. All its ports are on 127.0.0.1.

    TorchServe has an inference port and a management port, gunicorn has a socket instead: a file that only its owner
    can open.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    scratch: Path
    pid: int
    started: float
    version: str
    sha256: str
    kind: Kind = "torchserve"
    socket: Path | None = None
    inference_port: int = 0
    management_port: int = 0
    metrics_port: int
    workers: int = 1
    galleries: Path | None = None
    journal: JournalSettings | None = None

    @property
    def address(self) -> str:
        """Base address of the inference API. With a socket, it is only the name in the Host header."""
        return "http://localhost" if self.socket else f"http://127.0.0.1:{self.inference_port}"

    @property
    def management_address(self) -> str:
        """Base address of TorchServe's management API."""
        return f"http://127.0.0.1:{self.management_port}"

    @property
    def upstream(self) -> str:
        """The server in the notation of nginx."""
        return f"unix:{self.socket}" if self.socket else f"127.0.0.1:{self.inference_port}"

    def open_client(self, timeout: float) -> httpx.Client:
        """Return an HTTP client that is connected to the server, not to its front."""
        transport = httpx.HTTPTransport(uds=str(self.socket) if self.socket else None)
        return httpx.Client(base_url=self.address, transport=transport, timeout=timeout)

    def find_process(self) -> psutil.Process | None:
        """Return the process, or None if it has ended. The start time is compared too: pids are reused."""
        try:
            process = psutil.Process(self.pid)
        except psutil.Error:
            return None
        return process if is_alive(process) and abs(process.create_time() - self.started) < 1 else None

    def list_workers(self) -> list[psutil.Process]:
        """Return the running worker processes: TorchServe's workers in Python, or gunicorn's forks."""
        process, workers = self.find_process(), list[psutil.Process]()
        for child in process.children(recursive=True) if process else []:
            with suppress(psutil.Error):  # it has ended
                if is_alive(child) and (self.socket or any("model_service_worker" in part for part in child.cmdline())):
                    workers.append(child)
        return workers

    def get_token(self, kind: str = "inference") -> str:
        """Return a token that is valid for at least five more minutes, and keep header.txt up to date.

        TorchServe's tokens are valid for a year (serving/config). Its management API replaces one that expires.

        Args:
            kind: 'inference' or 'management'.
        """
        keys = self._read_keys()
        expires = keys[kind].get("expiration time")
        if expires and datetime.fromisoformat(expires) - datetime.now(UTC) < timedelta(minutes=5):
            bearer = {"Authorization": f"Bearer {keys['API']['key']}"}
            url = f"{self.management_address}/token"
            httpx.get(url, params={"type": kind}, headers=bearer, timeout=10).raise_for_status()
            keys = self._read_keys()
        token = str(keys[kind]["key"])
        if kind == "inference":
            with suppress(OSError):  # in a read-only folder the token itself is still usable
                write_header(self.folder, token)
        return token

    def _read_keys(self) -> dict[str, dict[str, str]]:
        try:
            return json.loads((self.folder / KEYS).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ServeError(f"{self.folder / KEYS}: the tokens cannot be read: {error}") from error

    def is_connected(self) -> bool:
        """Return whether a client is connected."""
        if self.socket:  # psutil does not list connections that wait to be accepted
            lines = [line.split() for line in Path("/proc/net/unix").read_bytes().splitlines()]
            path = str(self.socket).encode()
            return any(len(line) == 8 and line[7] == path and line[5] in _CONNECTED for line in lines)
        process = self.find_process()
        try:
            connections = process.net_connections("tcp") if process else []
        except psutil.Error:
            return False
        port = self.inference_port
        return any(c.status == psutil.CONN_ESTABLISHED and c.laddr and c.laddr.port == port for c in connections)

    def stop(self) -> None:
        """Stop the server and its workers, and return when all have ended. Kill those that do not end in time."""
        process = self.find_process()
        if process is not None:
            family = [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            for survivor in _wait_for_end(family):
                survivor.kill()
            _wait_for_end(family)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def read_log_tail(self) -> str:
        """Return the last lines of the logs, for error messages."""
        lines: list[str] = []
        for name in ("console.log", "logs/ts_log.log", "logs/model_log.log"):
            path = self.folder / name
            if path.is_file():
                lines += path.read_text("utf-8", errors="replace").splitlines()[-8:]
        return "\n".join(lines[-16:])


def copy_archive(deployment: Deployment, folder: Path) -> Path:
    """Copy the archive into the folder of a new server, and verify the copy, so that the verified bytes are served."""
    copy = folder / ARCHIVE
    copy.parent.mkdir()
    shutil.copyfile(deployment.archive, copy)
    verify(copy, deployment.sha256)
    return copy


def inherit_variables() -> dict[str, str]:
    """Return the only environment variables that a server inherits. The others may hold secrets of the user.

    If traces are on, OTEL_EXPORTER_OTLP_HEADERS may hold one too; the server needs it to send them.
    """
    names = (*_INHERITED, *(telemetry.VARIABLES if telemetry.is_wanted() else ()))
    return {name: os.environ[name] for name in names if name in os.environ}


def launch(
    command: list[str],
    deployment: Deployment,
    folder: Path,
    scratch: tuple[Path, int],
    variables: dict[str, str] | None = None,
    **record: Any,
) -> Server:
    """Start a server in the background, write its record and return it before it answers.

    Args:
        command: what to run.
        deployment: what to serve.
        folder: the folder of the server.
        scratch: from `make_scratch`. The server keeps the descriptor, so the scratch folder is in use until it ends.
        variables: more environment variables.
        record: the other fields of `Server`.
    """
    galleries = deployment.galleries and deployment.galleries.resolve()
    environment = inherit_variables() | _SINGLE_THREAD
    environment |= {"TMPDIR": str(scratch[0])} | ({GALLERIES_VARIABLE: str(galleries)} if galleries else {})
    environment |= (deployment.journal.to_environment() if deployment.journal else {}) | (variables or {})
    try:
        with (folder / "console.log").open("wb") as console:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=console,
                stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[scratch[1]],
            )  # fmt: skip
    finally:
        os.close(scratch[1])
    server = Server(
        folder=folder.resolve(), scratch=scratch[0], pid=process.pid,
        started=psutil.Process(process.pid).create_time(), version=deployment.version, sha256=deployment.sha256,
        workers=deployment.workers, galleries=galleries, journal=deployment.journal, **record,
    )  # fmt: skip
    write_text(server.model_dump_json(indent=1) + "\n", folder / RECORD)
    return server


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process is running. A zombie (ended, but not yet collected by its parent) is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _wait_for_end(family: list[psutil.Process]) -> list[psutil.Process]:
    """Wait up to _STOP_S seconds until all processes have ended. Return those that are still running."""
    end = time.monotonic() + _STOP_S
    while (survivors := [process for process in family if is_alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    return survivors


def find_free_ports(count: int) -> list[int]:
    """Return `count` ports of 127.0.0.1 that no process is using at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def is_free(port: int) -> bool:
    """Return whether no process listens on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
