"""A plugin of Prefect's command line: it finds the local server, or stops and prints what to start.

Prefect calls the hook when a command starts in this folder (prefect.toml; the entry point is in pyproject.toml).
Without the hook and without a server, `prefect deployment run` starts a temporary server, schedules a run there, and
ends. No worker would execute that run.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from prefect.plugins import HookContext, SetupResult, register_hook

POOL = "hire"
START = "Start a server and a worker: 'make pipeline'."
_SERVER_COMMANDS = ("deployment", "deploy", "worker", "work-pool")
_TIMEOUT = 5  # seconds


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Set PREFECT_API_URL to the local server if it answers; end a command that lacks the server or worker it needs.

    A server that the user has set (PREFECT_API_URL or a profile) has priority. A flow that is called directly uses
    Prefect's temporary server if no server is set or running.
    """
    command = [word for word in sys.argv[1:] if word not in ("--prompt", "--no-prompt")]
    command = command if Path(sys.argv[0]).stem == "prefect" else []
    url = ctx.api_url or _find_local_url()
    answers = _answers(f"{url}/health")
    if not answers and command and command[0] in _SERVER_COMMANDS and "--help" not in command:
        _stop(f"No Prefect server answers at {url}.", START)
    deployments = command[2:] if command[:2] == ["deployment", "run"] and answers else []
    for deployment in deployments:
        if deployment.startswith("hire/"):
            _check_worker(url, deployment)
    return SetupResult(env={"PREFECT_API_URL": url}) if answers and not ctx.api_url else None


def _check_worker(url: str, deployment: str) -> None:
    """End the command if no worker serves the work pool of `deployment`."""
    pool = _read_json(f"{url}/deployments/name/{deployment}").get("work_pool_name") or POOL
    if _read_json(f"{url}/work_pools/{pool}").get("status") == "NOT_READY":
        start = START if pool == POOL else f"Start a worker: 'prefect worker start --pool {pool}'."
        _stop(f"The Prefect server at {url} has no worker for the pool '{pool}', so the run would not start.", start)


def _find_local_url() -> str:
    from prefect.settings import get_current_settings

    api = get_current_settings().server.api
    return f"http://{api.host}:{api.port}/api"


def _answers(url: str) -> bool:
    """Return whether a server answers; a server that denies access answers too."""
    try:
        urllib.request.urlopen(url, timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _read_json(url: str) -> dict[str, Any]:
    """Return the JSON object at `url`; an empty dict if it does not exist or access is denied."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            return dict(json.load(response))
    except (OSError, ValueError, TypeError):
        return {}


def _stop(reason: str, start: str) -> None:
    raise SystemExit(f"hire: {reason} {start}")
