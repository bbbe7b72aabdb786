"""Flow `gate`: check whether a version may become the champion. The reasons are an artifact and tags of the version."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.states import Completed

from flows.parameters import Data, Overrides, Recipe, Version, resolve_settings
from flows.prefect_support import RETRY_IO, show_markdown, show_table
from hire_model.gate import Decision
from hire_model.settings import Settings

REJECTED = "Rejected"  # the name of the final state: the flow has completed, and the gate rejected the version


@flow(name="gate", log_prints=True)
def gate(version: Version = "challenger", recipe: Recipe = "", data: Data = "", overrides: Overrides = ()) -> Decision:
    """Check a version against the rules (settings gate.*) and the champion; artifacts: the decision, its rules.

    Returns the decision. If the version is rejected, the final state is Completed with the name 'Rejected'. Raises
    HireError if there is no such version, split or data set.
    """
    decision = decide_promotion(resolve_settings(recipe, data, overrides).settings, version)
    show_markdown("gate", decision.markdown())
    show_table("gate-rules", decision.rows(), decision.summary())
    print(_explain(decision))
    return decision if decision.passed else make_rejected_state(decision)


def make_rejected_state(decision: Decision) -> Any:
    """Return the final state of a flow whose gate rejected the version; a calling flow gets the decision itself."""
    return Completed(name=REJECTED, message=_explain(decision), data=decision)


def _explain(decision: Decision) -> str:
    return "\n".join([decision.summary(), *decision.reasons()])


@task(name="decide", log_prints=True, timeout_seconds=6 * 3600, **RETRY_IO)
def decide_promotion(settings: Settings, version: str) -> Decision:
    """Return the decision, which is also written to the version's tags and run."""
    from hire_model.workflows import gate as workflow

    return workflow.gate(settings, version).decision
