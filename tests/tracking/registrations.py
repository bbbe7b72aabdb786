"""Registered versions without a model in them, for tests of promotion."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import mlflow

from hire_model.settings import TrackingSettings
from hire_model.tracking.connection import connect
from hire_model.tracking.versions import CHAMPION, COMPARED_WITH, DECISION, PASSED, PREVIOUS


def register_versions(settings: TrackingSettings, count: int) -> None:
    """Register `count` versions of the model, all of one run."""
    client = mlflow.MlflowClient(connect(settings))
    run = client.create_run("0").info
    client.log_text(run.run_id, "{}", "model/config.json")
    if not client.search_registered_models(f"name = '{settings.model_name}'"):
        client.create_registered_model(settings.model_name)
    for _ in range(count):
        client.create_model_version(settings.model_name, f"{run.artifact_uri}/model", run.run_id)


def pass_gate(settings: TrackingSettings, version: str, against: str = "none", decision: str = PASSED) -> None:
    """Set the tags that a gate sets at its end."""
    client = mlflow.MlflowClient(settings.uri)
    client.set_model_version_tag(settings.model_name, version, COMPARED_WITH, against)
    client.set_model_version_tag(settings.model_name, version, DECISION, decision)


def read_aliases(settings: TrackingSettings) -> Mapping[str, str]:
    """Read the aliases such as {"champion": "2", "previous": "1"} with MLflow's client, without our code."""
    found = mlflow.MlflowClient(settings.uri).get_registered_model(settings.model_name).aliases
    return {name: str(number) for name, number in found.items() if name in (CHAMPION, PREVIOUS)}


def age_tickets(store: Path, seconds: int) -> None:
    """Make all promotion tickets in the SQLite store `seconds` older."""
    with sqlite3.connect(store / "mlflow.db", timeout=60) as database:
        statement = "update model_versions set creation_time = creation_time - ? where name like '%-promotions'"
        database.execute(statement, (1000 * seconds,))
