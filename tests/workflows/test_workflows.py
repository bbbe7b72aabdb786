"""Train, register and evaluate a tiny model with the workflows that the command line and the flows call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch

from hire_model.cli.train import print_training
from hire_model.data.store import Dataset
from hire_model.errors import HireError, TrainingStopped
from hire_model.evaluation.result import Result
from hire_model.settings import ResolvedSettings, TrackingSettings, resolve
from hire_model.tracking import versions
from hire_model.tracking.connection import TrackingError
from hire_model.workflows import evaluate as evaluate_workflow
from hire_model.workflows import train as train_workflow
from hire_model.workflows.train import TrainOutcome

pytestmark = pytest.mark.slow

TINY = {
    "model.preset": "tiny",
    "data.test": "test",
    "train.epochs": "1",
    "train.batch": "8",
    "train.threads": "1",
    "evaluate.bootstrap": "20",
    "evaluate.examples": "1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workflows")


@pytest.fixture(autouse=True)
def _isolate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in the module's folder; restore the state of MLflow and torch afterwards."""
    monkeypatch.chdir(folder)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    before, threads = mlflow.get_tracking_uri(), torch.get_num_threads()
    yield
    mlflow.set_tracking_uri(before)
    mlflow.tracking.fluent._active_experiment_id = None
    torch.set_num_threads(threads)


def _settings(folder: Path, data: Path, **more: str) -> ResolvedSettings:
    uri = {"tracking.uri": f"sqlite:///{folder}/mlflow.db", "data.path": str(data)}
    return resolve("synthetic", TINY | uri | {key.replace("__", "."): value for key, value in more.items()}, environ={})


@pytest.fixture(scope="module")
def trained(folder: Path, tiny_dataset: Path) -> TrainOutcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outcome = train_workflow.train(_settings(folder, tiny_dataset), name="tiny")
    assert outcome is not None
    return outcome


def test_a_training_writes_report_figures_settings_and_history(trained: TrainOutcome, folder: Path) -> None:
    assert (trained.split, trained.epochs, trained.registered) == ("test", 1, "models:/hire@challenger")
    assert trained.report.parent.resolve() == (folder / "runs/latest").resolve() != folder / "runs/latest"
    assert "<html" in trained.report.read_text("utf-8")
    assert Result.model_validate_json(trained.figures.read_text("utf-8")) == trained.result
    table = json.loads((folder / "runs/latest/settings.json").read_text())
    assert table["train.epochs"] == {"value": 1, "from": "command line"}
    assert len(json.loads((folder / "runs/latest/history.json").read_text())) == 1


def test_the_mlflow_run_has_settings_metrics_data_sets_and_report(
    trained: TrainOutcome, folder: Path, tiny_dataset: Path
) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    run = mlflow.get_run((folder / "runs/latest" / train_workflow.RUN_FILE).read_text().strip())
    assert run.info.status == "FINISHED" and run.data.params["train.batch"] == "8"
    assert {"train/loss", "dev/rsum", "full/rsum", "full/i2t_r1"} <= set(run.data.metrics)
    assert run.data.metrics["full/rsum"] == pytest.approx(trained.result.rsum)
    contexts = {
        tag.value for used in run.inputs.dataset_inputs for tag in used.tags if tag.key == "mlflow.data.context"
    }
    assert contexts == {"training", "dev", "test"}
    digest = Dataset.open(tiny_dataset).manifest.digest
    assert run.data.tags["dataset.test.digest"] == digest
    version = mlflow.MlflowClient().get_model_version_by_alias("hire", "challenger")
    assert version.tags["rsum"] == f"{trained.result.rsum:.2f}" and version.tags["data.digest"] == digest
    assert set(version.tags) == {
        "rsum", "run", "split", "data.digest", "golden.scores", "artifact.files", "artifact.sha256",
    }  # fmt: skip
    names = {artifact.path for artifact in mlflow.MlflowClient().list_artifacts(run.info.run_id, "evaluation")}
    assert names == {"evaluation/report.html", "evaluation/figures.json", "evaluation/history.json"}


def test_the_figures_are_metrics_of_the_logged_model_with_their_data_set(
    trained: TrainOutcome, tiny_dataset: Path
) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    client, tracking = mlflow.MlflowClient(), TrackingSettings(uri=trained.tracking_uri)
    logged = client.get_logged_model(versions.find(tracking, "challenger").model_id)
    metrics = {metric.key: metric for metric in logged.metrics or ()}
    assert metrics.keys() >= trained.result.metrics().keys()
    assert metrics["full/rsum"].value == pytest.approx(trained.result.rsum)
    assert metrics["full/rsum"].dataset_name == "relational scenes: test"
    assert Dataset.open(tiny_dataset).manifest.digest.startswith(str(metrics["full/rsum"].dataset_digest))
    assert "hire gate" in client.get_registered_model("hire").description


def test_an_evaluation_by_mlflow_run_logs_parameters_metrics_data_set_and_report(
    trained: TrainOutcome, folder: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    client = mlflow.MlflowClient()
    opened = client.create_run("0")
    for name, value in {
        "RUN_ID": opened.info.run_id,
        "EXPERIMENT_ID": "0",
        "TRACKING_URI": trained.tracking_uri,
    }.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    outcome = evaluate_workflow.evaluate(["models:/hire/1"], _settings(folder, tiny_dataset).settings, "dev")
    run = client.get_run(opened.info.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics["full/rsum"] == pytest.approx(outcome.result.rsum)
    assert run.data.params["models"] == "models:/hire/1" and run.data.params["evaluate.protocol"] == "full"
    assert run.inputs.dataset_inputs[0].dataset.name == "relational scenes: dev"
    names = {artifact.path for artifact in client.list_artifacts(opened.info.run_id, "evaluation")}
    assert names == {"evaluation/report.html", "evaluation/figures.json"}
    logged = client.get_logged_model(versions.find(TrackingSettings(uri=trained.tracking_uri), "1").model_id)
    figures = {metric.dataset_name: metric.value for metric in logged.metrics or () if metric.key == "full/rsum"}
    assert figures["relational scenes: dev"] == pytest.approx(outcome.result.rsum)
    assert figures["relational scenes: test"] == pytest.approx(trained.result.rsum)


@pytest.mark.parametrize("model", ["models:/hire@challenger", "runs/latest/model", "runs/latest"])
def test_an_evaluation_repeats_the_figures_of_the_training(
    trained: TrainOutcome, folder: Path, tiny_dataset: Path, model: str
) -> None:
    settings = _settings(folder, tiny_dataset).settings
    outcome = evaluate_workflow.evaluate([model], settings, "test", folder / "f.json", folder / "r.html")
    assert outcome.result.rsum == pytest.approx(trained.result.rsum)
    assert outcome.result.facts["model"].startswith(model)
    assert (folder / "f.json").is_file() and "<html" in (folder / "r.html").read_text("utf-8")


def test_a_registered_model_is_evaluated_on_the_data_it_was_trained_on(
    trained: TrainOutcome, folder: Path, tiny_dataset: Path
) -> None:
    settings = _settings(folder, tiny_dataset).settings
    without = settings.model_copy(update={"data": settings.data.model_copy(update={"path": None})})
    lines: list[str] = []
    evaluate_workflow.evaluate(["models:/hire@challenger"], without, "test", announce=lines.append)
    manifest = Dataset.open(tiny_dataset).manifest
    assert lines == [
        "Evaluating models:/hire@challenger (version 1) on relational scenes (the data of its training): "
        f"digest {manifest.digest[:12]}, split test, 8 images."
    ]
    assert not (folder / "datasets").exists()


def test_two_models_are_evaluated_as_an_ensemble(trained: TrainOutcome, folder: Path, tiny_dataset: Path) -> None:
    settings = _settings(folder, tiny_dataset).settings
    outcome = evaluate_workflow.evaluate(["runs/latest/model", "models:/hire@challenger"], settings, "dev")
    assert outcome.result.models == 2 and "ensemble of 2" in outcome.result.title


def test_resuming_a_finished_training_logs_to_the_same_run_and_registers_nothing(
    trained: TrainOutcome, folder: Path, tiny_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.MlflowClient(trained.tracking_uri).delete_registered_model_alias("hire", "challenger")  # as after a kill
    again = train_workflow.train(_settings(folder, tiny_dataset), resume=True)
    assert again is not None and again.result.rsum == pytest.approx(trained.result.rsum)
    mlflow.set_tracking_uri(trained.tracking_uri)
    runs = mlflow.search_runs(experiment_names=["hire"], output_format="list")
    assert len(runs) == 1, "the resumed training joins its run"
    assert "Version 1 of 'hire' already has these weights" in caplog.text
    assert (
        (again.version, again.registered) == (trained.version, trained.registered) == ("1", "models:/hire@challenger")
    )
    client = mlflow.MlflowClient()
    assert [version.version for version in client.search_model_versions("name = 'hire'")] == [1]
    assert str(client.get_model_version_by_alias("hire", "challenger").version) == "1"


def test_ctrl_c_after_the_last_epoch_says_how_to_resume(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path, tiny_dataset, tracking__enabled="false", train__out=str(tmp_path / "out"))

    def interrupt(*args: object, **options: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate_workflow.report, "render", interrupt)
        with pytest.raises(TrainingStopped, match=r"training is complete and stored in .*out.*--resume"):
            train_workflow.train(settings)
    again = train_workflow.train(settings, resume=True)
    assert again is not None and again.epochs == 1


def test_an_empty_split_name_is_refused(trained: TrainOutcome, folder: Path, tiny_dataset: Path) -> None:
    with pytest.raises(HireError, match=r"split: the name is empty"):
        evaluate_workflow.evaluate([str(trained.model)], _settings(folder, tiny_dataset).settings, "")


def test_a_wrong_mlflow_address_fails_before_anything_is_written(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path, tiny_dataset, tracking__uri="http://127.0.0.1:9", train__out=str(tmp_path / "out"))
    with pytest.raises(TrackingError, match="does not answer"):
        train_workflow.train(settings)
    assert not (tmp_path / "out").exists()


def test_a_protocol_that_does_not_fit_fails_before_training(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path, tiny_dataset, evaluate__protocol="coco-5k", tracking__enabled="false")
    with pytest.raises(HireError, match="coco-5k"):
        train_workflow.train(settings)


def test_a_training_without_mlflow_writes_only_to_its_folder(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = _settings(tmp_path, tiny_dataset, tracking__enabled="false", train__out=str(tmp_path / "out"))
    outcome = train_workflow.train(settings)
    assert outcome is not None and outcome.registered == "" and outcome.model.is_dir()
    assert "mlflow run" not in outcome.result.facts
    assert not (tmp_path / "mlflow.db").exists()


def test_a_refused_resume_does_not_change_the_earlier_run(
    trained: TrainOutcome, folder: Path, tiny_dataset: Path
) -> None:
    before = (folder / "runs/latest/settings.json").read_bytes()
    with pytest.raises(HireError, match=r"cannot resume with other settings.*train\.lr"):
        train_workflow.train(_settings(folder, tiny_dataset, train__lr="0.5"), resume=True)
    assert (folder / "runs/latest/settings.json").read_bytes() == before
    mlflow.set_tracking_uri(trained.tracking_uri)
    run = mlflow.get_run((folder / "runs/latest" / train_workflow.RUN_FILE).read_text().strip())
    assert run.info.status == "FINISHED" and run.info.run_name == f"tiny on {tiny_dataset.name}"


def test_the_printed_summary_names_the_data_and_the_next_command(
    trained: TrainOutcome, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_training(trained)
    printed = capsys.readouterr().out
    digest = Dataset.open(tiny_dataset).manifest.digest[:12]
    assert printed.startswith(f"Evaluated version 1 on relational scenes: digest {digest}, split test, 8 images.\n")
    for part in (
        "R@1",
        "rSum",
        f"report      {trained.report}",
        "link        runs/latest\n",
        "hire evaluate --model models:/hire@challenger",
    ):
        assert part in printed
    page = f"http://127.0.0.1:5000/#/experiments/{trained.experiment}/runs?workflowType=machine_learning"
    assert f"  mlflow ui --backend-store-uri {trained.tracking_uri}\n" in printed
    assert f"The training in MLflow: {page}\n" in printed
