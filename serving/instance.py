"""One running TorchServe: its folder, its process, its tokens.

The folder holds all that belongs to it: config.properties, key_file.json (tokens), logs/, store/hire.mar, workflows/
(empty, read-only), server.json (the record below). TorchServe is started as `torchserve` starts it, but without that
wrapper: one pid file per machine and "." on Java's class path are not wanted.
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
import tempfile
import time
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from string import Template

import httpx
import psutil
from pydantic import BaseModel, ConfigDict

from hire_model.errors import HireError
from hire_model.files import write_text
from hire_model.monitoring.journal import JournalSettings
from hire_model.packaging.verify import verify
from hire_model.service.galleries import GALLERIES_VARIABLE

CONFIG = Path(__file__).parent / "config"
RECORD, TOKENS, PROPERTIES = "server.json", "key_file.json", "config.properties"
JAVA_LINE = "sudo apt-get install -y openjdk-17-jre-headless   (or: conda install -c conda-forge openjdk=17)"
_JAVA = ("-Xms64m", "-Xmx1g", "-XX:MaxDirectMemorySize=1g", "-XX:+ExitOnOutOfMemoryError")
# What a worker needs of the environment. Nothing else gets in: a server has no business with this user's secrets.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "JAVA_HOME", "TZ")
_SINGLE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
_STOP_S = 30
_QUEUE = 32  # requests that may wait for each worker; more get 503 at once
_PORTS = ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port")


class ServeError(HireError):
    """A server that cannot be started, reached or stopped."""


class Instance(BaseModel):
    """What is known of a running server. Everything listens on 127.0.0.1."""

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
        """Where requests go."""
        return f"http://127.0.0.1:{self.inference_port}"

    @property
    def management(self) -> str:
        """Where the server itself is asked about."""
        return f"http://127.0.0.1:{self.management_port}"

    def process(self) -> psutil.Process | None:
        """The Java process, or None if it is gone; a pid that another process has got since is not it."""
        try:
            found = psutil.Process(self.pid)
        except psutil.Error:
            return None
        return found if is_alive(found) and abs(found.create_time() - self.started) < 1 else None

    def token(self, kind: str = "inference") -> str:
        """A token that is good for five minutes more at least. kind: 'inference' or 'management'.

        They last a year (serving/config); a new one is had from the management address with the key in the same file.
        """
        keys = self._keys()
        left = datetime.fromisoformat(keys[kind]["expiration time"]) - datetime.now(UTC)
        if left < timedelta(minutes=5):
            bearer = {"Authorization": f"Bearer {keys['API']['key']}"}
            httpx.get(f"{self.management}/token", params={"type": kind}, headers=bearer, timeout=10).raise_for_status()
            keys = self._keys()
        return str(keys[kind]["key"])

    def _keys(self) -> dict[str, dict[str, str]]:
        try:
            return json.loads((self.folder / TOKENS).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ServeError(f"{self.folder / TOKENS}: the tokens cannot be read: {error}") from error

    def stop(self) -> None:
        """End Java and its workers, and return when they have ended; what does not go is killed."""
        process = self.process()
        if process is not None:
            family = [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            for left in _wait_for_end(family):
                left.kill()
            _wait_for_end(family)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def last_words(self) -> str:
        """The end of its logs, for a message about its end."""
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
    port: int,
    workers: int = 1,
    galleries: Path | None = None,
    journal: JournalSettings | None = None,
) -> Instance:
    """Start a server of `archive` in `folder`, an empty one; it does not answer yet. Raises HireError.

    The archive is copied first and the copy verified, so that what was checked is what is served.
    """
    java = find_java()
    galleries = galleries.resolve() if galleries else None
    for name in ("store", "workflows"):
        (folder / name).mkdir()
    shutil.copyfile(archive, folder / "store" / "hire.mar")
    verify(folder / "store" / "hire.mar", sha256)
    (folder / "workflows").chmod(0o555)
    ports = dict(zip(_PORTS, [port, *free_ports(len(_PORTS) - 1)], strict=True))
    values = {
        "store": folder.resolve() / "store", "workflows": folder.resolve() / "workflows", "version": version,
        "workers": workers, "queue": _QUEUE * workers, "metrics": CONFIG / "metrics.yaml", **ports,
    }  # fmt: skip
    write_text(Template((CONFIG / PROPERTIES).read_text("utf-8")).substitute(values), folder / PROPERTIES)
    scratch = Path(tempfile.mkdtemp(prefix="hire-serve-"))  # a short path: a worker's socket lies there
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _SINGLE
    environment |= {"TMPDIR": str(scratch)} | ({GALLERIES_VARIABLE: str(galleries)} if galleries else {})
    environment |= journal.to_environment() if journal else {}
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            _command(java, folder, scratch), cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=console, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    record = Instance(
        folder=folder.resolve(), scratch=scratch, pid=process.pid,
        started=psutil.Process(process.pid).create_time(), version=version, sha256=sha256, inference_port=port,
        management_port=ports["management_port"], metrics_port=ports["metrics_port"], workers=workers,
        galleries=galleries, journal=journal,
    )  # fmt: skip
    write_text(record.model_dump_json(indent=1) + "\n", folder / RECORD)
    return record


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. A process that has ended, and whose parent has not asked how, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _wait_for_end(family: list[psutil.Process]) -> list[psutil.Process]:
    """Wait until all have ended; those that still run after a while."""
    end = time.monotonic() + _STOP_S
    while (left := [one for one in family if is_alive(one)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _command(java: str, folder: Path, scratch: Path) -> list[str]:
    home = _torchserve()
    return [
        java, *_JAVA, f"-Dmodel_server_home={home.parent}", f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j.configurationFile=file://{CONFIG / 'log4j2.xml'}", "-cp", str(home / "frontend" / "*"),
        "org.pytorch.serve.ModelServer", "--python", sys.executable, "-f", str((folder / PROPERTIES).resolve()),
        "-s", str((folder / "store").resolve()), "-w", str((folder / "workflows").resolve()), "-ncs",
    ]  # fmt: skip


def _torchserve() -> Path:
    """The folder of TorchServe, found without importing it."""
    spec = find_spec("ts")
    if spec is None or not spec.origin or not (Path(spec.origin).parent / "frontend").is_dir():
        raise ServeError("TorchServe is not installed: pip install 'hire-model[serving]'.")
    return Path(spec.origin).parent


def find_java() -> str:
    """A Java of 11 or newer, of JAVA_HOME or the path. Raises ServeError with the line that installs one."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    try:
        said = subprocess.run(
            [java or "java", "-version"], capture_output=True, text=True, timeout=60, check=True
        ).stderr
    except (OSError, subprocess.SubprocessError) as error:
        where = f"JAVA_HOME={home} has no bin/java that runs" if home else "there is no java on the path"
        raise ServeError(f"TorchServe needs Java 17, and {where}. Install it: {JAVA_LINE}") from error
    number = re.search(r'version "(\d+)', said)
    if number is None or int(number[1]) < 11:
        raise ServeError(f"TorchServe needs Java 17; {java} is {said.splitlines()[0]}. Install it: {JAVA_LINE}")
    return str(java)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
