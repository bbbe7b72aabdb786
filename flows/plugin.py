"""A plugin of Prefect's command line: it finds the local server, or says what to start.

Without a server `prefect deployment run` starts a temporary one, schedules a run there that no worker executes, and
ends. Prefect calls this hook at its start in the project's folder (prefect.toml, entry point in pyproject.toml).
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
START = "Start server and worker with 'make pipeline'."
_NEED_A_SERVER = ("deployment", "deploy", "worker", "work-pool")
_SECONDS = 5


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Set PREFECT_API_URL to the local server if one answers; refuse a command that would schedule a run in vain.

    A server that the user has set (PREFECT_API_URL, a profile) is used as it is. A flow that is called directly uses
    Prefect's temporary server if no server is set or running.
    """
    command = [word for word in sys.argv[1:] if word not in ("--prompt", "--no-prompt")]
    command = command if Path(sys.argv[0]).stem == "prefect" else []
    url = ctx.api_url or _find_local_url()
    answers = _answers(f"{url}/health")
    if not answers and command and command[0] in _NEED_A_SERVER and "--help" not in command:
        _refuse(f"No Prefect server answers at {url}.")
    ours = [word for word in command[2:] if word.startswith("hire/")] if command[:2] == ["deployment", "run"] else []
    for deployment in ours if answers else []:
        pool = _read_json(f"{url}/deployments/name/{deployment}").get("work_pool_name") or POOL
        if _read_json(f"{url}/work_pools/{pool}").get("status") == "NOT_READY":
            start = START if pool == POOL else f"Start one: prefect worker start --pool {pool}"
            _refuse(f"The server at {url} is there, but no worker for the pool '{pool}'; the run would wait.", start)
    return SetupResult(env={"PREFECT_API_URL": url}) if answers and not ctx.api_url else None


def _find_local_url() -> str:
    from prefect.settings import get_current_settings

    api = get_current_settings().server.api
    return f"http://{api.host}:{api.port}/api"


def _answers(url: str) -> bool:
    """Return whether a server answers, even if it denies access."""
    try:
        urllib.request.urlopen(url, timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _read_json(url: str) -> dict[str, Any]:
    """Return the JSON at `url`; an empty dict if there is none or access is denied."""
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError, TypeError):
        return {}


def _refuse(why: str, start: str = START) -> None:
    raise SystemExit(f"hire: {why} {start}")
