"""Flow `gate`: decide whether a version may become the champion."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.states import Completed

from flows.parameters import Data, Overrides, Recipe, Version, resolve_settings
from flows.prefect_support import RETRY_IO, name_runs, show_markdown, show_table
from hire_model.gate import Decision
from hire_model.settings import Settings

REJECTED = "Rejected"
"""Name of the final state (type Completed) if the gate rejected the version."""


@flow(name="gate", flow_run_name=name_runs("gate"), log_prints=True)
def gate(
    version: Version = "challenger", recipe: Recipe = "", data: Data = "", overrides: Overrides = ()
) -> Decision | None:
    """Check a version against the rules (settings gate.*) and the champion. Artifacts: the decision, a table of rules.

    Returns:
        The decision, or None if the version is the champion already. If it rejects the version, the final state is
        Completed with the name 'Rejected'.

    Raises:
        HireError: the version, the split or the data set does not exist.
    """
    decision = decide_promotion(resolve_settings(recipe, data, overrides).settings, version)
    if decision is None:
        return None
    show_markdown("gate", decision.markdown())
    show_table("gate-rules", decision.rows(), decision.summary())
    print(_explain(decision))
    return decision if decision.passed else make_rejected_state(decision)


def make_rejected_state(decision: Decision) -> Any:
    """Return the final state 'Rejected' for a flow. A flow that calls it as a subflow gets `decision` as its result."""
    return Completed(name=REJECTED, message=_explain(decision), data=decision)


def _explain(decision: Decision) -> str:
    return "\n".join([decision.summary(), *decision.reasons()])


@task(name="decide", log_prints=True, timeout_seconds=6 * 3600, **RETRY_IO)
def decide_promotion(settings: Settings, version: str) -> Decision | None:
    """Measure the version, decide, and write the decision to the version's tags and to its run.

    Return None if the version is the champion already.
    """
    from hire_model.workflows import gate as workflow

    outcome = workflow.gate(settings, version, announce=print)
    if outcome.decision is None:
        print(outcome.summary())
    return outcome.decision
