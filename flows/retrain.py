"""Flow `hire`, the whole pipeline: from a data set to a champion that can be served."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed

from flows.evaluate import evaluate
from flows.gate import gate, make_rejected_state
from flows.parameters import Data, Fresh, Hours, Overrides, Recipe, resolve_settings
from flows.prefect_support import NOTIFY, name_runs
from flows.promote import package, promote
from flows.train import hold_lock, train
from flows.validate import validate


@flow(name="hire", flow_run_name=name_runs("retrain"), log_prints=True, **NOTIFY)
def hire(
    recipe: Recipe = "synthetic",
    data: Data = "",
    overrides: Overrides = (),
    fresh: Fresh = False,
    hours: Hours = 24.0,
) -> Any:
    """Validate, train, evaluate, gate, package, promote.

    If the data fail validation, the run ends as Failed and nothing is trained. If the gate rejects the version, the run
    ends as Completed with the name 'Rejected': the champion stays the same and nothing is packaged. The archive is
    built before the alias moves, so that the champion can be served at any time.
    """
    with hold_lock(resolve_settings(recipe, data, overrides).settings):
        validate(recipe, data, overrides)
        version = train(recipe, data, overrides, fresh, hours)
        evaluate(version, recipe, data, overrides)
        decision = gate(version, recipe, data, overrides)
        if decision is not None and not decision.passed:
            return make_rejected_state(decision)
        archive = package(version, recipe, overrides)
        promote(version, recipe, overrides)
    return Completed(message=f"Version {version} is the champion; its archive is {archive}")
