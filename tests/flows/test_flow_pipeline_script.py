"""scripts/pipeline.sh with a stub of the command `prefect`: which process is the worker, when the pool is ready."""

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

pytestmark = pytest.mark.skipif(shutil.which("ps") is None, reason="the script needs ps")
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
    """A copy of the script in a folder with the stub."""

    def __init__(self, folder: Path) -> None:
        self.path, self.home = folder / "scripts" / "pipeline.sh", folder / "home"
        prefect = folder / ".venv" / "bin" / "prefect"
        sleep = prefect.with_name("sleep")
        for needed in (self.path.parent, self.home, prefect.parent):
            needed.mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "pipeline.sh", self.path)
        prefect.write_text(PREFECT)
        sleep.write_text(f"#!/bin/sh\nexec {shutil.which('sleep')} 0.3\n")  # the script waits in steps of 1 s
        for program in (prefect, sleep):
            program.chmod(0o755)
        self.pid = self.home / "hire-worker.pid"

    def __call__(
        self, *arguments: str, status: str = "READY", serverless: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the script.

        status: of the pool. serverless: "" if a server is running, "yes" if none is, "broken" if none can start.
        """
        env = clean_environment() | {"PREFECT_HOME": str(self.home), "STATUS": status, "PIPELINE_TRIES": "10"}
        env["SERVERLESS"] = serverless
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        command = ["sh", str(self.path), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    script = Script(tmp_path)
    yield script
    assert script("stop").returncode == 0


@pytest.fixture
def unrelated() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not a worker."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def test_a_worker_is_started_once_and_stopped(script: Script) -> None:
    first = script()
    assert first.returncode == 0 and "starting a worker" in first.stdout and "ready. Next" in first.stdout, first
    assert "the page of Prefect is http://127.0.0.1:4200\n" in first.stdout
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


def test_another_process_with_the_stored_pid_is_not_stopped(script: Script, unrelated: subprocess.Popen[bytes]) -> None:
    script.pid.write_text(f"{unrelated.pid}\n")
    assert script("stop").returncode == 0 and unrelated.poll() is None
    script.pid.write_text(f"{unrelated.pid}\n")
    assert "starting a worker" in script().stdout
    assert int(script.pid.read_text()) != unrelated.pid and unrelated.poll() is None


def test_a_pool_that_is_never_ready_is_an_error(script: Script) -> None:
    result = script(status="NOT_READY")
    assert result.returncode == 1 and "ready. Next" not in result.stdout
    assert "the pool hire is not ready" in result.stderr and "worker.log" in result.stderr


def test_the_server_survives_its_first_warning_which_goes_to_the_log(script: Script) -> None:
    """`prefect server start --background` writes into a pipe without a reader, and ends at the first warning."""
    result = script(serverless="yes")
    assert result.returncode == 0 and "starting Prefect's server" in result.stdout, result
    assert "a warning" in (script.home / "server.log").read_text()
    server = int((script.home / "server.pid").read_text())
    os.kill(server, 0)
    assert script("stop").returncode == 0 and not (script.home / "server.pid").exists()


def test_the_log_of_a_server_that_does_not_start_is_printed(script: Script) -> None:
    result = script(serverless="broken")
    assert result.returncode == 1 and "a warning" in result.stderr and "the server has ended" in result.stderr
