"""scripts/pipeline.sh with a stand-in for Prefect's command: which process is the worker, when the pool is ready."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_servers import ROOT, clean_environment

pytestmark = pytest.mark.skipif(shutil.which("ps") is None, reason="no ps, by which the script knows a process")
PREFECT = """#!/bin/sh
case "$*" in
    "worker start"*) while :; do sleep 1; done ;;
    "work-pool ls") [ -z "$SERVERLESS" ] || [ -f "$PREFECT_HOME/up" ] ;;
    "server start"*) echo "a warning"; [ "$SERVERLESS" = broken ] && exit 1; touch "$PREFECT_HOME/up"
        while :; do sleep 1; done ;;
    "server stop") kill "$(cat "$PREFECT_HOME/server.pid")" ;;
    "work-pool inspect"*) echo "status=WorkPoolStatus.$STATUS" ;;
esac
"""


class Script:
    """A copy of the script in a folder whose `prefect` does next to nothing."""

    def __init__(self, place: Path) -> None:
        self.path, self.home = place / "scripts" / "pipeline.sh", place / "home"
        prefect = place / ".venv" / "bin" / "prefect"
        sleep = prefect.with_name("sleep")
        for folder in (self.path.parent, self.home, prefect.parent):
            folder.mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "pipeline.sh", self.path)
        prefect.write_text(PREFECT)
        sleep.write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 0.3\n")  # the script waits in steps of 1 s
        for program in (prefect, sleep):
            program.chmod(0o755)
        self.pid = self.home / "hire-worker.pid"

    def __call__(self, *words: str, status: str = "READY", serverless: str = "") -> subprocess.CompletedProcess[str]:
        env = clean_environment() | {"PREFECT_HOME": str(self.home), "STATUS": status, "PIPELINE_TRIES": "10"}
        env["SERVERLESS"] = serverless
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        command = ["sh", str(self.path), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    script = Script(tmp_path)
    yield script
    assert script("stop").returncode == 0


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no worker."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def test_a_worker_is_started_once_and_ended(script: Script) -> None:
    first = script()
    assert first.returncode == 0 and "starting a worker" in first.stdout and "ready. Next" in first.stdout, first
    worker = int(script.pid.read_text())
    again = script()
    assert again.returncode == 0 and "starting a worker" not in again.stdout
    assert script("stop").returncode == 0 and not script.pid.exists()
    for _ in range(50):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_another_process_of_the_noted_number_is_no_worker(script: Script, stranger: subprocess.Popen[bytes]) -> None:
    script.pid.write_text(f"{stranger.pid}\n")
    assert script("stop").returncode == 0 and stranger.poll() is None, "it is left alone"
    script.pid.write_text(f"{stranger.pid}\n")
    assert "starting a worker" in script().stdout
    assert int(script.pid.read_text()) != stranger.pid and stranger.poll() is None


def test_a_pool_that_is_never_ready_is_not_called_ready(script: Script) -> None:
    done = script(status="NOT_READY")
    assert done.returncode == 1 and "ready. Next" not in done.stdout
    assert "the pool hire is not ready" in done.stderr and "worker.log" in done.stderr


def test_what_the_server_says_is_kept(script: Script) -> None:
    """Into a pipe without a reader, as of `prefect server start --background`, its first warning would end it."""
    done = script(serverless="yes")
    assert done.returncode == 0 and "starting Prefect's server" in done.stdout, done
    assert "a warning" in (script.home / "server.log").read_text()
    server = int((script.home / "server.pid").read_text())
    os.kill(server, 0)
    assert script("stop").returncode == 0 and not (script.home / "server.pid").exists()


def test_a_server_that_does_not_start_is_told(script: Script) -> None:
    done = script(serverless="broken")
    assert done.returncode == 1 and "a warning" in done.stderr and "the server has ended" in done.stderr
