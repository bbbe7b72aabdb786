"""Flow `promote`: makes a version that has passed the gate the champion."""

from __future__ import annotations

from prefect import flow, task

from flows import artifacts
from flows.parameters import Overrides, Recipe, Version, resolve_settings
from flows.retries import ON_IO
from hire_model.settings import TrackingSettings


@flow(name="promote", log_prints=True)
def promote(version: Version = "challenger", recipe: Recipe = "", overrides: Overrides = ()) -> str:
    """Move the alias 'champion' to the version, and 'previous' to the one before; returns the champion's number.

    Raises HireError for a version that has not passed the gate against the present champion.
    """
    said, champion = promoted(resolve_settings(recipe, overrides=overrides).settings.tracking, version)
    artifacts.markdown("promotion", said)
    print(said)
    return champion


@task(name="move aliases", timeout_seconds=600, **ON_IO)
def promoted(settings: TrackingSettings, version: str) -> tuple[str, str]:
    """(what happened in a sentence, the champion's number). Doing it twice changes nothing."""
    from hire_model.tracking import promotion

    done = promotion.promote(settings, version)
    return done.summary(), done.champion
