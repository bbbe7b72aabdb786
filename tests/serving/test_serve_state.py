"""`hire serve` remembers address, workers, galleries and journal across crashes; `sleep` stands for TorchServe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hire_model.monitoring.journal import JournalSettings
from hire_model.tracking.versions import Archive, Version
from serving import server
from serving.address import find_front, read_state
from serving.process import RECORD, Deployment, Kind, ServeError, Server, find_free_ports

pytestmark = pytest.mark.live


class Starts:
    """Stand for the functions that start a server: record the options, and start a process that does nothing."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.fails = False

    def start_gunicorn(self, deployment: Deployment, folder: Path) -> Server:
        return self(deployment, folder, kind="gunicorn")

    def __call__(self, deployment: Deployment, folder: Path, kind: Kind = "torchserve") -> Server:
        options = {name: getattr(deployment, name) for name in ("workers", "galleries", "journal")}
        if self.fails:
            raise ServeError("The server ended while starting.")
        self.options.append(options)
        self.processes.append(subprocess.Popen(["sleep", "600"]))
        process = psutil.Process(self.processes[-1].pid)
        started = Server(
            folder=folder, scratch=folder / "scratch", pid=process.pid, started=process.create_time(), kind=kind,
            version=deployment.version, sha256="", inference_port=find_free_ports(1)[0], management_port=2,
            metrics_port=3, **options,
        )  # fmt: skip
        (folder / RECORD).write_text(started.model_dump_json())
        return started


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    starts = Starts()
    monkeypatch.setattr(server, "STARTS", {"torchserve": starts, "gunicorn": starts.start_gunicorn})
    for name in ("verify", "wait_until_ready", "_warn_of_unusable_galleries", "_write_access_files"):
        monkeypatch.setattr(server, name, lambda *_, **__: None)
    yield starts
    server.stop(tmp_path / "run")
    for process in starts.processes:
        process.kill()
        process.wait(60)


def make_archive(folder: Path, number: str) -> Archive:
    return Archive(Version("hire", number, "", (), {}), folder / "hire.mar", "")


def test_a_crashed_server_keeps_its_address_workers_galleries_and_journal(tmp_path: Path, starts: Starts) -> None:
    run, galleries, journal = tmp_path / "run", tmp_path / "galleries", JournalSettings(tmp_path / "j", 0.5)
    galleries.mkdir()
    [port] = find_free_ports(1)
    archive = make_archive(tmp_path, "3")
    server.serve(archive, run, version="champion", port=port, workers=2, galleries=galleries, journal=journal)
    front = find_front(run)
    starts.processes[0].kill()
    starts.processes[0].wait(60)
    assert server.get_status(run) is None and server.find_crashed_version(run) == "champion"
    server.serve(archive, run)
    assert starts.options[1] == starts.options[0] == {"workers": 2, "galleries": galleries, "journal": journal}
    assert find_front(run) == front is not None and front.port == port
    server.serve(make_archive(tmp_path, "4"), run, workers=1)
    assert starts.options[2] == {"workers": 1, "galleries": galleries, "journal": journal}
    state = read_state(run)
    assert find_front(run) == front and state is not None and (state.version, state.port) == ("4", port)
    galleries.rmdir()
    server.serve(archive, run)
    assert starts.options[3]["galleries"] == galleries, "a missing folder of galleries does not prevent a restart"
    with pytest.raises(ServeError, match="no such folder"):
        server.serve(archive, run, galleries=galleries)
    command = "import sys; from pathlib import Path; from serving.server import stop; stop(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", command, run], check=True, timeout=300)  # not the parent of the processes
    assert find_front(run) is None and server.find_current(run) is None
    server.serve(archive, run, port=port)
    assert starts.options[4] == {"workers": 1, "galleries": None, "journal": None}, "--stop forgets the settings"


def test_a_server_that_does_not_start_changes_nothing(tmp_path: Path, starts: Starts) -> None:
    run, [first, second] = tmp_path / "run", find_free_ports(2)
    archive = make_archive(tmp_path, "3")
    starts.fails = True
    with pytest.raises(ServeError, match="ended while starting"):
        server.serve(archive, run, port=first)
    assert find_front(run) is None and read_state(run) is None
    starts.fails = False
    running = server.serve(archive, run, port=first, workers=2)
    state, front = read_state(run), find_front(run)
    starts.fails = True
    with pytest.raises(ServeError, match="ended while starting"):
        server.serve(make_archive(tmp_path, "4"), run, port=second, workers=1)
    assert (read_state(run), find_front(run), server.find_current(run)) == (state, front, running)
    starts.fails = False
    server.serve(archive, run, port=second)
    moved = find_front(run)
    assert front is not None and front.find_process() is None and moved is not None and moved.port == second
