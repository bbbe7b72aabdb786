"""The stable address of `hire serve`: start, find and stop its front, and read what should run.

The files below are in the folder of `hire serve` and survive a crash of every process:

    serve.json     what should run: version, kind of server, port, workers, galleries, journal. `hire serve --stop`
                   deletes it
    front.json     the process of the front (front.py)
    key_file.json, header.txt    the token of the front, which stays the same for all versions
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from hire_model.files import atomic_write, write_text
from hire_model.monitoring.journal import JournalSettings
from serving.front import FRONT
from serving.process import Kind, ServeError, find_free_ports, is_alive, is_free
from serving.tokens import KEYS, write_header

STATE, PORT = "serve.json", 8080
_START_S = 20.0
_SCRIPT = Path(__file__).with_name("front.py")
# glibc raises these limits by itself, and then keeps the memory of the largest bodies that were ever open together.
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


class ServeState(BaseModel):
    """What should run in a folder. `version`: as the user named it, so that an alias is looked up again."""

    model_config = ConfigDict(frozen=True)

    version: str
    port: int
    workers: int
    kind: Kind = "torchserve"
    galleries: Path | None = None
    journal: JournalSettings | None = None


class Front(BaseModel):
    """Record of a running front."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    pid: int
    started: float
    port: int

    @property
    def address(self) -> str:
        """The address that stays the same."""
        return f"http://127.0.0.1:{self.port}"

    def find_process(self) -> psutil.Process | None:
        """Return the process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            return process if is_alive(process) and abs(process.create_time() - self.started) < 1 else None
        except psutil.Error:
            return None

    def get_token(self) -> str:
        """Return the token that clients send to the front."""
        try:
            return str(json.loads((self.folder / KEYS).read_text("utf-8"))["inference"]["key"])
        except (OSError, ValueError, KeyError) as error:
            raise ServeError(f"{self.folder / KEYS}: the token cannot be read: {error}. Run 'hire serve'.") from error

    def stop(self) -> None:
        """End the process."""
        if (process := self.find_process()) is not None:
            process.kill()  # it holds nothing that could be lost
        end = time.monotonic() + _START_S
        while self.find_process() is not None and time.monotonic() < end:
            time.sleep(0.02)


def read_state(folder: Path) -> ServeState | None:
    """Return what should run in `folder`, or None if nothing was started or `--stop` was called."""
    path = folder / STATE
    try:
        return ServeState.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ServeError(
            f"{path}: cannot be read: {error}. Delete it, and pass the options of the server again."
        ) from error


def write_state(folder: Path, state: ServeState) -> None:
    """Record what should run."""
    write_text(state.model_dump_json(indent=1) + "\n", folder / STATE)


def find_front(folder: Path) -> Front | None:
    """Return the front of `folder` if it is running."""
    try:
        record = json.loads((folder / FRONT).read_text("utf-8"))
        front = Front(folder=folder, **record)
    except (OSError, ValueError, TypeError):
        return None
    return front if front.find_process() else None


def record_front(front: Front) -> None:
    """Write the record of a running front again, after another one has replaced it."""
    write_text(front.model_dump_json(exclude={"folder"}) + "\n", front.folder / FRONT)


def start_front(folder: Path, port: int) -> Front:
    """Return the front of `folder` on `port`; start it if it is not running. Another port of `folder` stays open.

    Raises:
        ServeError: another program uses the port.
    """
    running = find_front(folder)
    if running is not None and running.port == port:
        return running
    if not is_free(port):
        free = find_free_ports(1)[0]
        raise ServeError(f"Port {port} is used by another program. Name a free one: hire serve --port {free}")
    _write_token(folder)
    command = [sys.executable, "-I", str(_SCRIPT), str(folder.resolve()), str(port)]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
    environment |= _RETURN_MEMORY
    with (folder / "front.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        front = find_front(folder)
        if front is not None and front.pid == process.pid:
            return front
        time.sleep(0.02)
    process.kill()
    raise ServeError(f"The front did not start:\n{(folder / 'front.log').read_text('utf-8', 'replace')[-1000:]}")


def _write_token(folder: Path) -> None:
    """Write the token of the front, if there is none; only the owner can read it."""
    path = folder / KEYS
    try:
        token = str(json.loads(path.read_text("utf-8"))["inference"]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        token = secrets.token_urlsafe(32)
        with atomic_write(path, 0o600) as partial:
            partial.write_text(json.dumps({"inference": {"key": token}}) + "\n", "utf-8")
    write_header(folder, token)
