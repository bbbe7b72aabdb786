"""The concurrency slot of a deployment becomes free after its run and Prefect's server were killed together."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from real_servers import Servers, clean_environment, find_free_port, start_process, wait_for_url, wait_until

pytestmark = pytest.mark.live
LEASE = 60  # seconds, the shortest that Prefect grants
SLOT = "one-at-a-time"
PAST = "2000-01-01T00:00:00+00:00"


def expire_leases(home: Path) -> None:
    """Set the end of each lease on disk to the past, instead of waiting for it."""
    leases = home / "concurrency_leases"
    index = leases / "expirations.json"
    for lease in json.loads(index.read_text()):
        path = leases / f"{lease}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"expiration": PAST}))
    index.write_text(json.dumps(dict.fromkeys(json.loads(index.read_text()), PAST)))


def test_a_slot_held_when_the_server_was_killed_is_freed_after_its_lease(
    servers: Servers, project: Path, tmp_path: Path
) -> None:
    port, home = find_free_port(), tmp_path / "prefect"
    servers.copy_database(home)
    api, log = f"http://127.0.0.1:{port}/api", tmp_path / "server.log"
    env = clean_environment() | {"PREFECT_HOME": str(home), "PREFECT_API_URL": api}
    env["PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS"] = "1"
    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with SyncPrefectClient(api) as client:

        def count_held_slots() -> int:
            return client.read_global_concurrency_limit_by_name(SLOT).active_slots

        with start_process(server, env, project, log) as process:
            wait_for_url(f"{api}/health", process, log)
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=SLOT, limit=1))
            client.increment_concurrency_slots_with_lease([SLOT], 1, "concurrency", LEASE)
            assert count_held_slots() == 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with start_process(server, env, project, log) as process:
            wait_for_url(f"{api}/health", process, log)
            assert count_held_slots() == 1, "the run that holds the slot may still be running"
            expire_leases(home)
            wait_until(lambda: count_held_slots() == 0)
