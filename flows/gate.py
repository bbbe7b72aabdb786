"""Flow `gate`: may this version become the champion? The reasons are an artifact, and tags of the version."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.states import Completed

from flows import artifacts
from flows.parameters import Data, Overrides, Recipe, Version, resolve_settings
from flows.retries import ON_IO
from hire_model.gate import Decision
from hire_model.settings import Settings

REJECTED = "Rejected"  # the name of the state: the flow has done its work, and the answer is no


@flow(name="gate", log_prints=True)
def gate(version: Version = "challenger", recipe: Recipe = "", data: Data = "", overrides: Overrides = ()) -> Decision:
    """Judge a version against the rules (settings gate.*) and the champion; artifacts: the decision, its rules.

    Returns the decision; where that is no, the run's state is Completed by the name 'Rejected'. Raises HireError where
    there is no such version, split or data set.
    """
    decision = decided(resolve_settings(recipe, data, overrides).settings, version)
    artifacts.markdown("gate", decision.markdown())
    artifacts.table("gate-rules", decision.rows(), decision.summary())
    print(_told(decision))
    return decision if decision.passed else rejected(decision)


def rejected(decision: Decision) -> Any:
    """The state of a flow that has come to a no; a flow that calls this one as a sub-flow gets the decision itself."""
    return Completed(name=REJECTED, message=_told(decision), data=decision)


def _told(decision: Decision) -> str:
    """The decision in a sentence, and a line for each rule that failed."""
    return "\n".join([decision.summary(), *decision.reasons()])


@task(name="decide", log_prints=True, timeout_seconds=6 * 3600, **ON_IO)
def decided(settings: Settings, version: str) -> Decision:
    """The decision, which is also written to the version's tags and run."""
    from hire_model.workflows import gate as workflow

    return workflow.gate(settings, version).decision
