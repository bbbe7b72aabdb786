"""One TorchServe server: its process, its folder, its ports and its tokens.

The folder holds all files of the server: config.properties, key_file.json and header.txt (tokens), logs/,
store/hire.mar, workflows/ (empty, read-only) and server.json (the record below). Java is started directly, not through
the command `torchserve`: that allows one server per machine and adds "." to the class path of Java.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from string import Template

import httpx
import psutil
from pydantic import BaseModel, ConfigDict

from hire_model.errors import HireError
from hire_model.files import make_scratch, write_text
from hire_model.monitoring.journal import JournalSettings
from hire_model.packaging.verify import verify
from hire_model.service.galleries import GALLERIES_VARIABLE
from serving.tokens import KEYS, write_header

CONFIG = Path(__file__).parent / "config"
RECORD, PROPERTIES = "server.json", "config.properties"
JAVA_LINE = "sudo apt-get install -y openjdk-17-jre-headless   (or: conda install -c conda-forge openjdk=17)"
_JAVA = ("-Xms64m", "-Xmx1g", "-XX:MaxDirectMemorySize=1g", "-XX:+ExitOnOutOfMemoryError")
# The only environment variables that the server inherits. The others may hold secrets of the user.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "JAVA_HOME", "TZ")
_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
_STOP_S = 30
_QUEUE = 32  # requests that may wait for each worker; further ones get 503 at once
_PORTS = ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port")


class ServeError(HireError):
    """A server cannot be started, reached or stopped."""


class Server(BaseModel):
    """Record of a started server, saved as server.json. All its ports are on 127.0.0.1."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    scratch: Path
    pid: int
    started: float
    version: str
    sha256: str
    inference_port: int
    management_port: int
    metrics_port: int
    workers: int = 1
    galleries: Path | None = None
    journal: JournalSettings | None = None

    @property
    def address(self) -> str:
        """Base address of the inference API."""
        return f"http://127.0.0.1:{self.inference_port}"

    @property
    def management_address(self) -> str:
        """Base address of the management API."""
        return f"http://127.0.0.1:{self.management_port}"

    def find_process(self) -> psutil.Process | None:
        """Return the Java process, or None if it has ended. The start time is compared too: pids are reused."""
        try:
            process = psutil.Process(self.pid)
        except psutil.Error:
            return None
        return process if is_alive(process) and abs(process.create_time() - self.started) < 1 else None

    def get_token(self, kind: str = "inference") -> str:
        """Return a token that is valid for at least five more minutes, and keep header.txt up to date.

        Tokens are valid for a year (serving/config). The management API replaces one that is about to expire.

        Args:
            kind: 'inference' or 'management'.
        """
        keys = self._read_keys()
        remaining = datetime.fromisoformat(keys[kind]["expiration time"]) - datetime.now(UTC)
        if remaining < timedelta(minutes=5):
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

    def stop(self) -> None:
        """Stop Java and its workers, and return when all have ended. Kill those that do not end in time."""
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


def start(
    archive: Path,
    sha256: str,
    version: str,
    folder: Path,
    *,
    workers: int = 1,
    galleries: Path | None = None,
    journal: JournalSettings | None = None,
) -> Server:
    """Start a server of `archive` in the empty folder `folder`, and return before it answers. Raises HireError.

    The archive is copied first and the copy is verified, so the verified bytes are the served ones.
    """
    java = find_java()
    galleries = galleries.resolve() if galleries else None
    for name in ("store", "workflows"):
        (folder / name).mkdir()
    shutil.copyfile(archive, folder / "store" / "hire.mar")
    verify(folder / "store" / "hire.mar", sha256)
    (folder / "workflows").chmod(0o555)
    ports = dict(zip(_PORTS, find_free_ports(len(_PORTS)), strict=True))
    values = {
        "store": folder.resolve() / "store", "workflows": folder.resolve() / "workflows", "version": version,
        "workers": workers, "queue": _QUEUE * workers, "metrics": CONFIG / "metrics.yaml", **ports,
    }  # fmt: skip
    write_text(Template((CONFIG / PROPERTIES).read_text("utf-8")).substitute(values), folder / PROPERTIES)
    scratch, lock = make_scratch("hire-serve-")  # a short path: the sockets of the workers are in it
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _SINGLE_THREAD
    environment |= {"TMPDIR": str(scratch)} | ({GALLERIES_VARIABLE: str(galleries)} if galleries else {})
    environment |= journal.to_environment() if journal else {}
    try:
        with (folder / "console.log").open("wb") as console:
            process = subprocess.Popen(
                _build_command(java, folder, scratch), cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=console, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[lock],
            )  # fmt: skip
    finally:
        os.close(lock)  # Java keeps it: the folder is in use until Java ends
    server = Server(
        folder=folder.resolve(), scratch=scratch, pid=process.pid,
        started=psutil.Process(process.pid).create_time(), version=version, sha256=sha256,
        inference_port=ports["inference_port"], management_port=ports["management_port"],
        metrics_port=ports["metrics_port"], workers=workers, galleries=galleries, journal=journal,
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


def _build_command(java: str, folder: Path, scratch: Path) -> list[str]:
    home = _find_torchserve()
    return [
        java, *_JAVA, f"-Dmodel_server_home={home.parent}", f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j.configurationFile=file://{CONFIG / 'log4j2.xml'}", "-cp", str(home / "frontend" / "*"),
        "org.pytorch.serve.ModelServer", "--python", sys.executable, "-f", str((folder / PROPERTIES).resolve()),
        "-s", str((folder / "store").resolve()), "-w", str((folder / "workflows").resolve()), "-ncs",
    ]  # fmt: skip


def _find_torchserve() -> Path:
    """Locate the folder of the package `ts` without importing it."""
    spec = find_spec("ts")
    if spec is None or not spec.origin or not (Path(spec.origin).parent / "frontend").is_dir():
        raise ServeError("TorchServe is not installed: pip install 'hire-model[serving]'.")
    return Path(spec.origin).parent


def find_java() -> str:
    """Locate Java 11 or newer through JAVA_HOME or PATH. Raises ServeError with the command that installs Java."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    try:
        done = subprocess.run([java or "java", "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"JAVA_HOME={home} has no working bin/java" if home else "java is not on the PATH"
        raise ServeError(f"TorchServe needs Java 17, but {problem}. Install it: {JAVA_LINE}") from error
    number = re.search(r'version "(\d+)', done.stderr)
    if number is None or int(number[1]) < 11:
        found = done.stderr.splitlines()[0]
        raise ServeError(f"TorchServe needs Java 17, but {java} is {found}. Install it: {JAVA_LINE}")
    return str(java)


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
