"""The one MLflow experiment that holds the runs of `hire`, the flows and `mlflow run`."""

from __future__ import annotations

from pathlib import Path

from mlflow.tracking.default_experiment.abstract_context import DefaultExperimentProvider

from hire_model.settings import TrackingSettings, resolve

_PROJECT = "MLproject"
# The kind of an experiment with trained models; without it, MLflow's interface guesses.
_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_NOTE = "mlflow.note.content"
# The link comes first: MLflow opens an experiment with its pages for language models, which list no trainings, and
# shows one line of the description above them.
_DESCRIPTION = (
    "[List of runs](#/experiments/{id}/runs?workflowType=machine_learning). Trainings, evaluations and validations of "
    "Hire (image-text matching). A training has the metrics `full/…` of its test split, an evaluation those of the "
    "evaluated split; the HTML reports are artifacts."
)
_UNLINKED = "Trainings, evaluations and validations of Hire"  # start of the description up to 0.2


def open_experiment(settings: TrackingSettings) -> str:
    """Return the id of the experiment of the settings. Create it if needed, with a description."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    found = client.get_experiment_by_name(settings.experiment)
    if found is None:
        try:
            found = client.get_experiment(client.create_experiment(settings.experiment, tags=_TAGS))
        except MlflowException:  # another process has just created it
            found = client.get_experiment_by_name(settings.experiment)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        return found.experiment_id
    tags = _TAGS | {_NOTE: _DESCRIPTION.format(id=found.experiment_id)}
    for key, value in tags.items():
        if key not in found.tags or (key == _NOTE and found.tags[key].startswith(_UNLINKED)):
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
