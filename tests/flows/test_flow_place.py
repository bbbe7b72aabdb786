"""The one place of a retrain comes free where its run and Prefect's server were killed together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from real_servers import await_that, clean_environment, free_port, running, wait_for

pytestmark = pytest.mark.live
SHORTEST = 60  # seconds; Prefect grants no shorter lease
PLACE = "one-at-a-time"


def test_a_killed_server_frees_what_was_held_once_it_runs_again(project: Path, tmp_path: Path) -> None:
    port = free_port()
    api, log = f"http://127.0.0.1:{port}/api", tmp_path / "server.log"
    env = clean_environment() | {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": api}
    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with SyncPrefectClient(api) as client:

        def taken() -> int:
            return client.read_global_concurrency_limit_by_name(PLACE).active_slots

        with running(server, env, project, log) as process:
            wait_for(f"{api}/health", process, log)
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=PLACE, limit=1))
            client.increment_concurrency_slots_with_lease([PLACE], 1, "concurrency", SHORTEST)
            assert taken() == 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with running(server, env, project, log) as process:
            wait_for(f"{api}/health", process, log)
            assert taken() == 1, "who held it may still be at work"
            await_that(lambda: taken() == 0)
