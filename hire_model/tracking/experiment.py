"""The one MLflow experiment that holds the runs of `hire`, the flows and `mlflow run`."""

from __future__ import annotations

from pathlib import Path

from mlflow.tracking.default_experiment.abstract_context import DefaultExperimentProvider

from hire_model.settings import TrackingSettings, resolve

_PROJECT = "MLproject"
# The kind of an experiment with trained models; without it, MLflow's interface guesses.
_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Trainings, evaluations and validations of Hire (image-text matching). A training has the "
    "metrics `full/…` of its test split, an evaluation those of the evaluated split; the HTML reports are artifacts.",
}


def open_experiment(settings: TrackingSettings) -> str:
    """Return the id of the experiment of the settings. Create it if needed, with a description."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    found = client.get_experiment_by_name(settings.experiment)
    if found is None:
        try:
            return client.create_experiment(settings.experiment, tags=_TAGS)
        except MlflowException:  # another process has just created it
            found = client.get_experiment_by_name(settings.experiment)
            if found is None:
                raise
    for key, value in _TAGS.items():
        if key not in found.tags and found.lifecycle_stage == "active":  # created by an earlier release, or by hand
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


class ProjectExperiment(DefaultExperimentProvider):
    """Make `mlflow run .` in this project use the experiment of the settings instead of MLflow's `Default`.

    MLflow finds this class by an entry point (pyproject.toml). `--experiment-name`, MLFLOW_EXPERIMENT_NAME and
    MLFLOW_EXPERIMENT_ID still come first.
    """

    def in_context(self) -> bool:
        """Return whether the working folder is a copy of this project."""
        project = Path(_PROJECT)
        return project.is_file() and "\nname: hire\n" in f"\n{project.read_text('utf-8', errors='replace')}"

    def get_experiment_id(self) -> str:
        """Return the id of the experiment of the settings."""
        return open_experiment(resolve(None).settings.tracking)
