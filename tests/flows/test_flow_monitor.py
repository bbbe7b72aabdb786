"""The flow `monitor`, the retrain that it starts, and `hire monitor`, on journals that a service has written."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect import flow
from real_servers import Servers
from registered import RegisteredModel
from typer.testing import CliRunner

import flows.monitor
from expectations.check import run_suite
from flows.monitor import DRIFT, monitor
from hire_model.cli.main import app
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.model import artifact
from hire_model.monitoring.journal import Journal, JournalSettings
from hire_model.service.parsing import Request
from hire_model.service.payload import serialize_image
from hire_model.service.service import Service
from hire_model.settings import Settings
from hire_model.workflows.monitor import monitor as run_monitor


def write_journal(model: Path, dataset: Path, out: Path, add: str = "", count: int = 120) -> Path:
    """Score `count` pairs of the training split, with `add` after each sentence; return the journal's folder."""
    split, service = Dataset.open(dataset).split("train"), Service.load(model, version="1")
    service.journal = Journal(JournalSettings(out, 1.0), service.facts, service.scorer.model.vocabulary)
    for row in range(count):
        image, text = json.loads(serialize_image(split.regions(row))), split.texts[int((split.owner < row).sum())]
        [reply], _ = service.answer([Request(json.dumps({"pairs": [{"image": image, "text": text + add}]}))])
        assert reply.status == 200, reply.body
        while not service.journal._queue.empty():
            time.sleep(0.001)
    service.journal.close()
    return out


@pytest.fixture(scope="module")
def monitored(
    registered_model: RegisteredModel, scenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> RegisteredModel:
    """A copy of the store with a version 2 whose training data are `scenes`, which are enough to compare with."""
    root = tmp_path_factory.mktemp("monitored")
    folder = root / "model"
    shutil.copytree(registered_model.folder, folder)
    config, manifest = json.loads((folder / artifact.CONFIG).read_text()), Dataset.open(scenes).manifest
    config["facts"] |= {"data": manifest.name, "data digest": manifest.digest}
    (folder / artifact.CONFIG).write_text(json.dumps(config))
    tracking = registered_model.settings.tracking
    shutil.copy(tracking.uri.removeprefix("sqlite:///"), root / "mlflow.db")
    tracking = tracking.model_copy(update={"uri": f"sqlite:///{root}/mlflow.db"})
    version = MlflowClient(tracking.uri).create_model_version("hire", str(folder)).version
    settings = registered_model.settings.model_copy(update={"tracking": tracking})
    return RegisteredModel(settings, str(version), folder, scenes)


@pytest.fixture(scope="module")
def usual(monitored: RegisteredModel, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of unchanged training data."""
    return write_journal(monitored.folder, scenes, tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def drifted(monitored: RegisteredModel, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal whose sentences are far longer than those of the training data."""
    return write_journal(monitored.folder, scenes, tmp_path_factory.mktemp("drifted"), " and so on" * 4)


def make_overrides(registered: RegisteredModel, folder: Path) -> list[str]:
    return [f"tracking.uri={registered.settings.tracking.uri}", f"train.out={folder / 'runs' / 'latest'}"]


def make_command(registered: RegisteredModel, scenes: Path, journal: Path, *more: str) -> list[str]:
    return ["monitor", "--journal", str(journal), "--data", str(scenes), "--model", str(registered.folder), *more]


def test_the_command_reports_no_drift_and_writes_a_page_without_scripts_or_links(
    monitored: RegisteredModel, scenes: Path, usual: Path, tmp_path: Path
) -> None:
    page = tmp_path / "drift.html"
    result = CliRunner().invoke(app, make_command(monitored, scenes, usual, "--report", str(page)))
    assert result.exit_code == 0, result.output
    assert "no drift, 120 pairs" in result.output
    html = page.read_text()
    assert html.count("<svg") == 8
    assert "http:" not in html and "https:" not in html
    assert "<script" not in html


def test_the_command_exits_1_on_drift(monitored: RegisteredModel, scenes: Path, drifted: Path) -> None:
    result = CliRunner().invoke(app, make_command(monitored, scenes, drifted))
    assert result.exit_code == 1, result.output
    assert "words of the text (drift)" in result.output


def test_too_few_pairs_are_not_drift(monitored: RegisteredModel, scenes: Path, tmp_path: Path) -> None:
    few = write_journal(monitored.folder, scenes, tmp_path / "few", " and so on" * 9, count=20)
    result = CliRunner().invoke(app, make_command(monitored, scenes, few))
    assert result.exit_code == 0, result.output
    assert "too few: 20 pairs" in result.output


def test_data_other_than_the_training_data_are_refused(
    monitored: RegisteredModel, usual: Path, tiny_dataset: Path
) -> None:
    digests = [Dataset.open(folder).manifest.digest[:16] for folder in (tiny_dataset, monitored.dataset)]
    with pytest.raises(HireError, match=f"(?s){digests[0]}, but .* was trained on .*{digests[1]}"):
        run_monitor(usual, str(monitored.folder), Settings.model_validate({"data": {"path": tiny_dataset}}), run_suite)


def test_the_command_compares_a_version_with_its_training_data(monitored: RegisteredModel, usual: Path) -> None:
    uri = monitored.settings.tracking.uri
    command = ["monitor", "--journal", str(usual), "--version", "1", "--set", f"tracking.uri={uri}"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code in (0, 1) and "120 pairs" in result.output, result.output


def test_lines_of_another_model_are_counted_and_not_compared(
    monitored: RegisteredModel, scenes: Path, usual: Path, tmp_path: Path
) -> None:
    for part in usual.iterdir():
        text = part.read_text()
        weights = json.loads(text.splitlines()[0])["weights"]
        (tmp_path / part.name).write_text(text.replace(weights, "0" * 64))
    settings = Settings.model_validate({"data": {"path": scenes, "test": "test"}})
    result = run_monitor(tmp_path, str(monitored.folder), settings, run_suite)
    assert (result.drift.pairs, result.drift.verdict) == (0, "too few")
    command = f"hire monitor --journal {tmp_path} --version 1"
    assert result.summary().endswith(f"The journal also has pairs of version 1 (120). To compare them: {command}")


@flow(name="stub")
def retrain_stub(recipe: str = "", data: str = "", overrides: list[str] | None = None) -> None:
    raise AssertionError("no worker runs this")


@pytest.fixture
def stub_deployment(in_project: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment without a worker, which the monitor starts instead of hire/retrain."""
    retrain_stub.to_deployment("retrain").apply()
    monkeypatch.setattr(flows.monitor, "RETRAIN", "stub/retrain")


@pytest.mark.live
def test_the_flow_starts_one_retrain_on_drift_if_enabled(
    stub_deployment: None, in_project: Servers, monitored: RegisteredModel, scenes: Path, usual: Path, drifted: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    parameters = {"version": monitored.version, "data": str(scenes), "overrides": make_overrides(monitored, tmp_path)}
    state = monitor(str(usual), **parameters, retrain=True, return_state=True)
    assert (state.name, state.result()) == ("Completed", "no drift")
    assert (tmp_path / "runs" / "monitored" / "drift.html").is_file()
    assert in_project.list_runs("stub") == []
    for retrain in (False, True, True):
        state = monitor(str(drifted), **parameters, retrain=retrain, return_state=True)
        assert (state.name, state.result()) == (DRIFT, "drift")
        assert ("stub/retrain" in state.message) == retrain
    [run] = in_project.list_runs("stub")
    assert run["parameters"] == {"data": str(scenes), "overrides": parameters["overrides"]}
    assert in_project.list_artifacts("drift") and in_project.list_artifacts("drift-report")


@pytest.mark.live
def test_without_the_deployment_the_error_names_make_pipeline(
    in_project: Servers, monitored: RegisteredModel, scenes: Path, drifted: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(flows.monitor, "RETRAIN", "missing/retrain")
    parameters = {"version": monitored.version, "data": str(scenes), "overrides": make_overrides(monitored, tmp_path)}
    with pytest.raises(HireError, match="make pipeline"):
        monitor(str(drifted), **parameters, retrain=True)
