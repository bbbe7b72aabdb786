"""The flow `monitor`, its retrain, and `hire monitor`, on journals that a service has written."""

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
from flows.monitor import DRIFT, monitor, watch
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


def ask_all(model: Path, dataset: Path, out: Path, add: str = "", count: int = 120) -> Path:
    """The journal of a service that was asked for `count` pairs of the training split, with `add` to each sentence."""
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
def watched(
    registered_model: RegisteredModel, scenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> RegisteredModel:
    """The model as if it had learned from `scenes`, which are enough to compare with: version 2 of a copied store."""
    place = tmp_path_factory.mktemp("watched")
    folder = place / "model"
    shutil.copytree(registered_model.folder, folder)
    config, manifest = json.loads((folder / artifact.CONFIG).read_text()), Dataset.open(scenes).manifest
    config["facts"] |= {"data": manifest.name, "data digest": manifest.digest}
    (folder / artifact.CONFIG).write_text(json.dumps(config))
    tracking = registered_model.settings.tracking
    shutil.copy(tracking.uri.removeprefix("sqlite:///"), place / "mlflow.db")
    tracking = tracking.model_copy(update={"uri": f"sqlite:///{place}/mlflow.db"})
    version = MlflowClient(tracking.uri).create_model_version("hire", str(folder)).version
    settings = registered_model.settings.model_copy(update={"tracking": tracking})
    return RegisteredModel(settings, str(version), folder, scenes)


@pytest.fixture(scope="module")
def usual(watched: RegisteredModel, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ask_all(watched.folder, scenes, tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def drifted(watched: RegisteredModel, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences that are far longer than those that were learned."""
    return ask_all(watched.folder, scenes, tmp_path_factory.mktemp("drifted"), " and so on" * 4)


def overrides(registered: RegisteredModel, place: Path) -> list[str]:
    return [f"tracking.uri={registered.settings.tracking.uri}", f"train.out={place / 'runs' / 'latest'}"]


def command(registered: RegisteredModel, scenes: Path, journal: Path, *more: str) -> list[str]:
    return ["monitor", "--journal", str(journal), "--data", str(scenes), "--model", str(registered.folder), *more]


def test_the_command_says_no_drift_and_writes_a_report(
    watched: RegisteredModel, scenes: Path, usual: Path, tmp_path: Path
) -> None:
    page = tmp_path / "drift.html"
    done = CliRunner().invoke(app, command(watched, scenes, usual, "--report", str(page)))
    assert done.exit_code == 0, done.output
    assert "no drift, 120 pairs" in done.output
    html = page.read_text()
    assert html.count("<svg") == 8
    assert "http:" not in html and "https:" not in html
    assert "<script" not in html


def test_the_command_exits_1_on_drift(watched: RegisteredModel, scenes: Path, drifted: Path) -> None:
    done = CliRunner().invoke(app, command(watched, scenes, drifted))
    assert done.exit_code == 1, done.output
    assert "words of the text (drift)" in done.output


def test_few_pairs_are_no_drift(watched: RegisteredModel, scenes: Path, tmp_path: Path) -> None:
    few = ask_all(watched.folder, scenes, tmp_path / "few", " and so on" * 9, count=20)
    done = CliRunner().invoke(app, command(watched, scenes, few))
    assert done.exit_code == 0, done.output
    assert "too few: 20 pairs" in done.output


def test_other_data_than_the_model_has_learned_from_are_refused(
    watched: RegisteredModel, usual: Path, tiny_dataset: Path
) -> None:
    digests = [Dataset.open(folder).manifest.digest[:16] for folder in (tiny_dataset, watched.dataset)]
    with pytest.raises(HireError, match=f"(?s){digests[0]}, but .* was trained on .*{digests[1]}"):
        run_monitor(usual, str(watched.folder), Settings.model_validate({"data": {"path": tiny_dataset}}), run_suite)


def test_lines_of_another_model_do_not_count(
    watched: RegisteredModel, scenes: Path, usual: Path, tmp_path: Path
) -> None:
    for part in usual.iterdir():
        text = part.read_text()
        weights = json.loads(text.splitlines()[0])["weights"]
        (tmp_path / part.name).write_text(text.replace(weights, "0" * 64))
    settings = Settings.model_validate({"data": {"path": scenes, "test": "test"}})
    found = run_monitor(tmp_path, str(watched.folder), settings, run_suite)
    assert (found.drift.pairs, found.drift.verdict) == (0, "too few")


def test_the_form_and_the_deployment() -> None:
    form = monitor.parameters
    assert form.properties and not form.required
    assert all(len(field["description"]) > 20 for field in form.properties.values())
    assert (watch.name, monitor.name) == ("hire", "monitor")


@flow(name="elsewhere")
def stand_in(recipe: str = "", data: str = "", overrides: list[str] | None = None) -> None:
    raise AssertionError("nobody runs this")


@pytest.fixture
def elsewhere(here: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that stands for hire/retrain, which nobody works on."""
    stand_in.to_deployment("retrain").apply()
    monkeypatch.setattr(flows.monitor, "RETRAIN", "elsewhere/retrain")


@pytest.mark.live
def test_the_flow_reports_and_starts_one_retrain_where_asked(
    elsewhere: None, here: Servers, watched: RegisteredModel, scenes: Path, usual: Path, drifted: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    given = {"version": watched.version, "data": str(scenes), "overrides": overrides(watched, tmp_path)}
    state = monitor(str(usual), **given, retrain=True, return_state=True)
    assert (state.name, state.result()) == ("Completed", "no drift")
    assert (tmp_path / "runs" / "monitored" / "drift.html").is_file()
    assert here.runs("elsewhere") == []
    for retrain in (False, True, True):
        state = monitor(str(drifted), **given, retrain=retrain, return_state=True)
        assert (state.name, state.result()) == (DRIFT, "drift")
        assert ("elsewhere/retrain" in state.message) == retrain
    [run] = here.runs("elsewhere")
    assert run["parameters"] == {"data": str(scenes), "overrides": given["overrides"]}
    assert here.artifacts("drift") and here.artifacts("drift-report")


@pytest.mark.live
def test_a_retrain_that_cannot_be_started_says_what_to_do(
    here: Servers, watched: RegisteredModel, scenes: Path, drifted: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(flows.monitor, "RETRAIN", "nobody/retrain")
    given = {"version": watched.version, "data": str(scenes), "overrides": overrides(watched, tmp_path)}
    with pytest.raises(HireError, match="make pipeline"):
        monitor(str(drifted), **given, retrain=True)
