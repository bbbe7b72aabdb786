"""`hire gate` on a real store: a trained version passes and is promoted; a worse one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from damage import flip_byte
from registered import RegisteredModel
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.store import Dataset, Split
from hire_model.data.synthetic import generate
from hire_model.errors import HireError
from hire_model.gate import Decision
from hire_model.model import artifact
from hire_model.model_card.card import make_card
from hire_model.packaging.archive import package
from hire_model.settings import Settings
from hire_model.tracking import versions
from hire_model.tracking.lease import PromotionError
from hire_model.tracking.promotion import promote
from hire_model.tracking.registry import fetch
from hire_model.tracking.trust import ArtifactChangedError
from hire_model.workflows import evaluate as evaluate_workflow
from hire_model.workflows import gate as workflow
from serving import HANDLER

LENIENT = {"min_shuffle": 0.0, "max_pair_ms": 0.0, "max_query_ms": 0.0, "max_ece": 1.0}  # a tiny model, a busy machine


@pytest.fixture(scope="module")
def settings(registered_model: RegisteredModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Copy the store to keep the promotions from other tests; register a version 2 that scores all pairs alike."""
    folder = tmp_path_factory.mktemp("gate")
    shutil.copy(registered_model.settings.tracking.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    original = registered_model.settings
    tracking = original.tracking.model_copy(update={"uri": f"sqlite:///{folder}/mlflow.db"})
    before = mlflow.get_tracking_uri()
    model = artifact.load(registered_model.folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()  # every pair has the same score
    collapsed = artifact.save(model, folder / "collapsed")
    mlflow.MlflowClient(tracking.uri).create_model_version("hire", str(collapsed))
    yield original.model_copy(
        update={
            "tracking": tracking,
            "gate": original.gate.model_copy(update=LENIENT),
            "evaluate": original.evaluate.model_copy(update={"bootstrap": 200}),
        }
    )
    mlflow.set_tracking_uri(before)


def _decide(settings: Settings, version: str, **options: Any) -> Decision:
    decision = workflow.gate(settings, version, **options).decision
    assert decision is not None
    return decision


@pytest.fixture(scope="module")
def first(settings: Settings) -> Decision:
    """Run the gate of version 1 twice without a champion, and promote the version."""
    _decide(settings, "1", limit=6)
    decision = _decide(settings, "challenger")
    promote(settings.tracking)
    return decision


@pytest.fixture(scope="module")
def second(settings: Settings, first: Decision) -> Decision:
    """Run the gate of version 2 against version 1."""
    return _decide(settings, "2")


def test_every_figure_of_the_first_version_is_measured(first: Decision, settings: Settings) -> None:
    assert first.passed and first.champion == "", first.reasons()
    evidence = first.evidence
    manifest = Dataset.open(settings.data.path or "").manifest
    assert (evidence.ground.digest, evidence.ground.split, evidence.ground.images) == (manifest.digest, "test", 8)
    trained = mlflow.MlflowClient(settings.tracking.uri).get_run(_find_run(settings)).data.metrics["full/rsum"]
    assert evidence.figures["full/rsum"] == pytest.approx(trained)
    assert {"shuffle", "swap", "negation"} <= set(evidence.behaviour)
    assert evidence.calibration is not None and evidence.speed is not None and evidence.speed.pair_ms > 0
    assert evidence.megabytes is not None and evidence.megabytes > 0.1


def _find_run(settings: Settings) -> str:
    return versions.find(settings.tracking, "1").run_id


def test_the_decision_is_in_the_tags_the_run_and_the_model_card(first: Decision, settings: Settings) -> None:
    version = versions.find(settings.tracking, "1")
    decision = first
    assert version.tags["gate.decision"] == "passed" and version.tags["gate.champion"] == "none"
    assert version.tags["gate.data.digest"] == decision.evidence.ground.digest
    for check in decision.checks:
        assert version.tags[f"gate.check.{check.name}"] == f"{check.verdict}: {check.words}"
    stored = versions.read_artifact(settings.tracking, version, "gate/version-1/decision.json")
    assert stored is not None and Decision.model_validate_json(stored) == decision
    assert versions.read_artifact(settings.tracking, version, "gate/version-1/decision.md") == decision.markdown()
    card = mlflow.MlflowClient(settings.tracking.uri).get_model_version("hire", "1").description
    assert card.startswith("# Model card: hire") and "models:/hire/1" in card


def test_the_gate_records_the_digest_of_the_model_that_it_judged(
    first: Decision, second: Decision, settings: Settings
) -> None:
    """Version 2 was registered without a digest, as by an earlier release."""
    for number, decision in (("1", first), ("2", second)):
        version = versions.find(settings.tracking, number)
        files = artifact.hash_files(fetch(version.uri, settings.tracking))
        digest = artifact.digest_table(files)
        assert version.tags["artifact.sha256"] == version.tags["gate.artifact.sha256"] == digest
        assert decision.evidence.facts["artifact.sha256"] == digest
        assert json.loads(version.tags["artifact.files"]) == files


def test_a_worse_version_is_not_promoted(second: Decision, settings: Settings) -> None:
    decision = second
    assert not decision.passed and decision.champion == "1" and decision.comparison is not None
    assert decision.comparison.difference < -30 and decision.comparison.interval[1] < 0
    assert {behaviour.share for behaviour in decision.evidence.behaviour.values()} == {0.0}
    assert [check.name for check in decision.failed_rules()] == ["no worse than the champion"]
    assert versions.find(settings.tracking, "2").tags["gate.decision"] == "failed"
    with pytest.raises(PromotionError, match="it failed its gate"):
        promote(settings.tracking, "2")
    champion = versions.find_champion(settings.tracking)
    assert champion is not None and champion.number == "1"


def test_the_champion_is_scored_again_only_on_other_data_or_images(
    second: Decision, settings: Settings, tmp_path: Path
) -> None:
    """On the same data its stored ranks are used. With fewer images or other data they are computed."""
    comparison = second.comparison
    assert comparison is not None and not comparison.champion_scored
    shorter = _decide(settings, "2", limit=7).comparison
    assert shorter is not None and shorter.champion_scored and shorter.ground.images == 7
    other = generate(tmp_path / "other", train=2, dev=2, test=8, seed=9)
    elsewhere = settings.model_copy(update={"data": settings.data.model_copy(update={"path": tmp_path / "other"})})
    changed = _decide(elsewhere, "2").comparison
    assert changed is not None and changed.champion_scored and changed.ground.digest == other.digest
    assert changed.champion_rsum != comparison.champion_rsum


@pytest.mark.parametrize(
    ("data", "options", "measured_on"),
    [
        ({"test": None, "dev_images": 3}, {}, ("dev", 3)),
        ({"test": None, "dev_images": 3}, {"limit": 4}, ("dev", 4)),
        ({"test": "test", "dev_images": 3}, {}, ("test", 8)),
        ({"test": "test", "dev_images": 3}, {"split": "dev"}, ("dev", 8)),
    ],
)
def test_the_gate_measures_on_the_evaluation_split_of_the_settings(
    settings: Settings, data: dict[str, Any], options: dict[str, Any], measured_on: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    chosen = []

    def stop(challenger: object, champion: object, split: Split, *_: object) -> None:
        chosen.append((split.name, len(split.images)))
        raise HireError("enough")

    monkeypatch.setattr(workflow, "_run_gate", stop)
    with pytest.raises(HireError, match="enough"):
        workflow.gate(settings.model_copy(update={"data": settings.data.model_copy(update=data)}), "2", **options)
    assert chosen == [measured_on]


def test_the_gate_of_the_champion_measures_and_writes_nothing(
    first: Decision, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "_run_gate", lambda *_: pytest.fail("the champion is measured again"))
    before = versions.find(settings.tracking, "1")
    outcome = workflow.gate(settings, "champion")
    assert outcome.decision is None and "Version 1 of 'hire' is already the champion" in outcome.summary()
    assert versions.find(settings.tracking, "1") == before


def test_an_earlier_decision_stays_readable(first: Decision, settings: Settings) -> None:
    version = versions.find(settings.tracking, "1")
    earlier, current = (
        versions.read_artifact(settings.tracking, version, f"gate/version-1/decision-{number}.json")
        for number in (1, 2)
    )
    assert earlier is not None and Decision.model_validate_json(earlier).evidence.ground.images == 6
    assert current is not None and Decision.model_validate_json(current) == first


def _without_path(settings: Settings) -> Settings:
    return settings.model_copy(update={"data": settings.data.model_copy(update={"path": None})})


def test_without_a_data_set_the_gate_uses_the_training_data_of_the_version(
    settings: Settings, registered_model: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Split] = []
    lines: list[str] = []

    def stop(challenger: object, champion: object, split: Split, *_: object) -> None:
        opened.append(split)
        raise HireError("enough")

    monkeypatch.chdir(tmp_path)
    generate(tmp_path / "datasets" / "relational-scenes", train=2, dev=2, test=2, seed=7)
    monkeypatch.setattr(workflow, "_run_gate", stop)
    monkeypatch.setattr(versions, "find_champion", lambda _: None)
    with pytest.raises(HireError, match="enough"):
        workflow.gate(_without_path(settings), "1", announce=lines.append)
    manifest = Dataset.open(registered_model.dataset).manifest
    assert opened[0].dataset.manifest.digest == manifest.digest
    for part in ("version 1 of 'hire'", manifest.name, manifest.digest[:12], "split test", "8 images", "its training"):
        assert part in lines[0]


def test_a_version_whose_data_are_gone_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generate(tmp_path / "datasets" / "relational-scenes", train=2, dev=2, test=2, seed=7)
    monkeypatch.setattr(versions, "read_data_folder", lambda *_: tmp_path / "gone")
    monkeypatch.setattr(versions, "find_champion", lambda _: None)
    digest = versions.find(settings.tracking, "1").tags["data.digest"]
    with pytest.raises(HireError, match=rf"trained on 'gone'.*digest {digest[:12]}.*--data FOLDER"):
        workflow.gate(_without_path(settings), "1")


def test_a_wrong_version_split_or_protocol_is_refused_before_scoring(settings: Settings) -> None:
    with pytest.raises(HireError, match="no version or alias '9'"):
        workflow.gate(settings, "9")
    with pytest.raises(HireError, match="no split 'val'"):
        workflow.gate(settings, "2", split="val")
    rules = settings.gate.model_copy(update={"minimum": "coco-5k/rsum=1"})
    with pytest.raises(HireError, match="coco-5k"):
        workflow.gate(settings.model_copy(update={"gate": rules}), "2")


def test_a_version_with_an_interrupted_gate_cannot_be_promoted(
    second: Decision, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "decide", interrupt)
    with pytest.raises(KeyboardInterrupt):
        workflow.gate(settings, "2")
    with pytest.raises(PromotionError, match="decision is stopped"):
        promote(settings.tracking, "2")


def test_gate_promote_show_and_card_agree_on_the_command_line(
    first: Decision, second: Decision, settings: Settings, tmp_path: Path
) -> None:
    run, store = CliRunner(), ["--set", f"tracking.uri={settings.tracking.uri}"]
    rules = ["--set", "gate.min_shuffle=0", "--set", "gate.max_ece=1", "--set", "evaluate.bootstrap=50"]
    data = ["--data", str(settings.data.path)]
    out = tmp_path / "decision.json"
    again = run.invoke(app, ["gate", "--version", "1", *data, *rules, *store])
    assert again.exit_code == 0 and "already the champion" in again.output, again.output
    history = run.invoke(app, ["registry", "show", *store]).output
    failed = run.invoke(app, ["gate", "--version", "2", *data, *rules, *store, "--json", str(out)])
    assert failed.exit_code == 1 and "no worse than the champion" in failed.output, failed.output
    assert failed.output.startswith("Evaluating version 2 of 'hire' on relational scenes: digest ")
    assert not Decision.model_validate_json(out.read_text()).passed
    shown = run.invoke(app, ["registry", "show", *store])
    assert shown.exit_code == 0 and "champion" in shown.output and "failed" in shown.output
    refused = run.invoke(app, ["promote", "--version", "2", *store])
    assert isinstance(refused.exception, PromotionError)
    assert "already" in run.invoke(app, ["promote", "--version", "1", *store]).output
    assert run.invoke(app, ["registry", "show", *store]).output.count("promote 1") == history.count("promote 1")
    carded = run.invoke(app, ["card", "--model", "1", "--out", str(tmp_path / "card.md"), *store])
    card = (tmp_path / "card.md").read_text()
    assert carded.exit_code == 0 and "## Gate" in card
    assert "## Ablation\n\nNot available." in card and "hire card --ablation" in card, "it says how to add one"
    folder = run.invoke(app, ["card", "--model", str(settings.train.out / "model"), *store])
    assert "has not checked this model yet" in folder.output


def test_a_flipped_byte_in_any_file_is_refused_by_evaluate_gate_promote_card_and_package(
    first: Decision, second: Decision, settings: Settings, tmp_path: Path
) -> None:
    actions: list[Callable[[], object]] = [
        lambda: evaluate_workflow.evaluate(["models:/hire@champion"], settings, "test"),
        lambda: promote(settings.tracking, "1", "a reason"),
        lambda: make_card("1", settings.tracking),
        lambda: package("1", settings, HANDLER, tmp_path),
    ]
    folder = fetch("models:/hire/1", settings.tracking)
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 5
    for name in names:
        for action in actions:
            with flip_byte(folder / name), pytest.raises(ArtifactChangedError, match=f"changed: {name}"):
                action()
    assert not list(tmp_path.iterdir())
    for path in sorted(fetch("models:/hire/2", settings.tracking).iterdir()):  # the gate skips the champion
        with flip_byte(path), pytest.raises(ArtifactChangedError, match=f"changed: {path.name}"):
            workflow.gate(settings, "2")
    assert versions.find(settings.tracking, "2").tags["gate.decision"] == "stopped"
