"""Registered versions without a model in them, for tests of who is in force."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlflow

from hire_model.settings import TrackingSettings
from hire_model.tracking.connection import connect
from hire_model.tracking.versions import CHAMPION, DECISION, JUDGED_AGAINST, PASSED, PREVIOUS


def register(settings: TrackingSettings, count: int) -> None:
    """Add `count` versions of the model, all of one run."""
    client = mlflow.MlflowClient(connect(settings))
    run = client.create_run("0").info
    client.log_text(run.run_id, "{}", "model/config.json")
    if not client.search_registered_models(f"name = '{settings.model_name}'"):
        client.create_registered_model(settings.model_name)
    for _ in range(count):
        client.create_model_version(settings.model_name, f"{run.artifact_uri}/model", run.run_id)


def pass_gate(settings: TrackingSettings, version: str, against: str = "none", decision: str = PASSED) -> None:
    """What the gate writes when it is done."""
    client = mlflow.MlflowClient(settings.uri)
    client.set_model_version_tag(settings.model_name, version, JUDGED_AGAINST, against)
    client.set_model_version_tag(settings.model_name, version, DECISION, decision)


def aliases(settings: TrackingSettings) -> Mapping[str, str]:
    """{"champion": "2", "previous": "1"}, read past our own code."""
    found = mlflow.MlflowClient(settings.uri).get_registered_model(settings.model_name).aliases
    return {name: str(number) for name, number in found.items() if name in (CHAMPION, PREVIOUS)}


def age_tickets(store: Path, seconds: int) -> None:
    """Let time pass for the tickets of every promotion in an SQLite store."""
    import sqlite3

    with sqlite3.connect(store / "mlflow.db", timeout=60) as database:
        order = "update model_versions set creation_time = creation_time - ? where name like '%-promotions'"
        database.execute(order, (1000 * seconds,))
