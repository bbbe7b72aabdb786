"""One experiment holds the runs of `hire`, the flows and `mlflow run`, with a description and a kind."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking.default_experiment import registry as providers
from mlflow.tracking.fluent import _get_experiment_id

from hire_model.settings import TrackingSettings
from hire_model.tracking.connection import connect
from hire_model.tracking.experiment import open_experiment
from hire_model.tracking.run import start_run

ROOT = Path(__file__).parents[2]


def _load_provider() -> type:
    """Return the class that pyproject.toml names for MLflow; the installed package may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, name = project["entry-points"]["mlflow.default_experiment_provider"]["hire"].split(":")
    return getattr(import_module(module), name)


def test_mlflow_run_in_the_project_uses_the_experiment_of_hire(
    tracking: TrackingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "_default_experiment_provider_registry", [_load_provider()()])
    monkeypatch.setenv("HIRE_TRACKING__EXPERIMENT", tracking.experiment)
    connect(tracking)
    assert _get_experiment_id() == "0", "outside the project MLflow's default is kept"
    (tmp_path / "MLproject").write_text((ROOT / "MLproject").read_text("utf-8"), "utf-8")
    monkeypatch.chdir(tmp_path)
    with start_run(tracking, "hire train") as run:
        pass
    assert _get_experiment_id() == mlflow.get_run(run.run_id).info.experiment_id != "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    mlflow.tracking.fluent._active_experiment_id = None
    assert _get_experiment_id() == "0", "a named experiment comes first"
    (tmp_path / "MLproject").write_text("name: other\n", "utf-8")
    assert not _load_provider()().in_context()


def test_a_new_and_an_older_experiment_get_kind_and_description(tracking: TrackingSettings) -> None:
    connect(tracking)
    client = mlflow.MlflowClient()
    by_hand = client.create_experiment("by hand", tags={"mlflow.note.content": "our own words"})
    words = "Trainings, evaluations and validations of Hire"
    older = client.create_experiment("older", tags={"mlflow.note.content": words})
    for name, note in (("new", "[List of runs]"), ("by hand", "our own words"), ("older", "[List of runs]")):
        number = open_experiment(tracking.model_copy(update={"experiment": name}))
        tags = client.get_experiment(number).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"
        assert tags["mlflow.note.content"].startswith(note)
        runs = f"(#/experiments/{number}/runs?workflowType=machine_learning)"
        assert (runs in tags["mlflow.note.content"]) == (name != "by hand"), "the link opens the list of trainings"
    for name, number in (("by hand", by_hand), ("older", older)):
        assert open_experiment(tracking.model_copy(update={"experiment": name})) == number
