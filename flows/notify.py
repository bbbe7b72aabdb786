"""Word of how a run has ended, to a webhook. Off until a Prefect block of type Webhook is named 'hire-notify'."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from prefect import Flow
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_UI_URL

BLOCK = "hire-notify"
log = logging.getLogger("hire_model.flows")


async def notify(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Send flow, run, state and message as JSON. A webhook that fails is a warning: it must not fail the run.

    The names of the parameters are Prefect's: where it finds that a run was killed, it calls by name.
    """
    try:
        hook: Any = await Webhook.aload(BLOCK)
    except ValueError:  # no such block
        return
    page = f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}" if PREFECT_UI_URL.value() else ""
    word = {"flow": flow.name, "run": flow_run.name, "state": state.name, "message": state.message or "", "url": page}
    try:
        async with asyncio.timeout(20):
            (await hook.call(word)).raise_for_status()
    except Exception as error:
        log.warning("The webhook of block %s took no word of this run: %s", BLOCK, error)


HOOKS: dict[str, Any] = {"on_completion": [notify], "on_failure": [notify], "on_crashed": [notify]}
