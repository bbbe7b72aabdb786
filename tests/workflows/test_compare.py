"""`hire compare`, `hire evaluate --contrasts` and `--judgements`: from model folders to tables, JSON and report."""

from __future__ import annotations

import json
from pathlib import Path

import model_examples
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.evaluation.bootstrap import FIGURES, bootstrap_differences
from hire_model.evaluation.eccv import load_metrics
from hire_model.evaluation.result import Result
from hire_model.model import artifact
from hire_model.model.hire import Hire
from hire_model.model.vocabulary import learn_vocabulary
from hire_model.scoring import kept_scores
from hire_model.scoring.hub_correction import collect_bank
from hire_model.settings import Settings, resolve
from hire_model.tracking.connection import TrackingError
from hire_model.workflows import evaluate as evaluate_workflow
from hire_model.workflows.compare import ComparedFigure, ModelComparison, compare


@pytest.fixture(scope="module")
def folders(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two untrained models in folders."""
    dataset, parent = Dataset.open(tiny_dataset), tmp_path_factory.mktemp("models")
    chosen = model_examples.make_settings()
    for seed in (0, 1):
        torch.manual_seed(seed)
        vocabulary = learn_vocabulary(dataset.split("train").texts, chosen.text)
        model = Hire(chosen, dataset.manifest.feature_dim, dataset.manifest.predicates, vocabulary, None)
        artifact.save(model, parent / str(seed), {})
    return str(parent / "0"), str(parent / "1")


@pytest.fixture
def settings(tiny_dataset: Path) -> Settings:
    overrides = {"data.path": str(tiny_dataset), "evaluate.bootstrap": "50", "tracking.enabled": "false"}
    return resolve(None, overrides, environ={}).settings


def test_the_comparison_has_the_figures_of_both_evaluations(
    folders: tuple[str, str], settings: Settings, tmp_path: Path
) -> None:
    comparison = compare(*folders, settings, "dev", tmp_path / "c.json")
    assert ModelComparison.model_validate_json((tmp_path / "c.json").read_text("utf-8")) == comparison
    assert tuple(comparison.figures) == FIGURES
    for name, folder in (("first", folders[0]), ("second", folders[1])):
        result = evaluate_workflow.evaluate([folder], settings, "dev").result
        expected = {figure: result.metrics()[f"full/{figure}"] for figure in FIGURES}
        assert {figure: getattr(row, name) for figure, row in comparison.figures.items()} == pytest.approx(expected)
    for row in comparison.figures.values():
        assert row.difference == row.first - row.second
        assert row.interval[0] <= row.interval[1]


@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_an_interrupted_command_with_two_models_scores_only_the_second_one_again(
    command: str, folders: tuple[str, str], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIRE_CACHE", str(tmp_path))
    monkeypatch.setattr(kept_scores, "MIN_PAIRS", 1)
    write, written = kept_scores.ScoreBlocks.write, list[int]()

    def write_and_stop(blocks: kept_scores.ScoreBlocks, number: int, scores: np.ndarray) -> None:
        write(blocks, number, scores)
        written.append(number)
        if len(written) == 1:
            raise KeyboardInterrupt

    def run() -> None:
        if command == "compare":
            compare(*folders, settings, "dev", None)
        else:
            evaluate_workflow.evaluate(folders, settings, "dev")

    monkeypatch.setattr(kept_scores.ScoreBlocks, "write", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(list(tmp_path.glob("scores/*/*.npz"))) == 1
    run()
    assert len(written) == 2, "one block for each model"
    assert not list(tmp_path.glob("scores/*"))


def test_a_model_does_not_differ_from_itself(folders: tuple[str, str], settings: Settings) -> None:
    comparison = compare(folders[0], folders[0], settings, "dev")
    assert {(row.difference, row.interval) for row in comparison.figures.values()} == {(0.0, (0.0, 0.0))}
    assert "is not larger than chance" in comparison.conclude()


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((-4.5, 5.7), "+1.0 (95 % interval -4.5 to +5.7), is not larger than chance: the interval contains 0."),
        ((0.0, 5.7), "is not larger than chance"),
        ((0.3, 5.7), "is larger than chance: A is better than B"),
        ((-5.7, -0.3), "is larger than chance: B is better than A"),
    ],
)
def test_the_conclusion_follows_the_interval_of_rsum(interval: tuple[float, float], words: str) -> None:
    difference = 1.0 if interval[1] > 0 else -1.0
    row = ComparedFigure(first=300 + difference, second=300, difference=difference, interval=interval)
    counts = {"images": 1, "captions": 1, "bootstrap": 1, "seed": 0}
    comparison = ModelComparison(
        first="a", second="b", protocol="full", split="dev", figures={"rsum": row}, facts={}, **counts
    )
    assert words in comparison.conclude()


def test_the_interval_of_a_recall_contains_the_difference() -> None:
    random = np.random.default_rng(0)
    owner, fold = np.repeat(np.arange(40), 2), np.zeros(40, np.int64)
    first, second = ((random.integers(1, 20, 40), random.integers(1, 20, 80)) for _ in range(2))
    intervals = bootstrap_differences(first, second, owner, fold, 100, 3)
    difference = 100 * float(np.mean(first[0] <= 5) - np.mean(second[0] <= 5))
    assert intervals["i2t_r5"][0] <= difference <= intervals["i2t_r5"][1]


@pytest.mark.parametrize("position", [0, 1])
def test_a_missing_model_is_an_error_before_scoring(
    position: int, folders: tuple[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hire_model.workflows import compare as workflow

    monkeypatch.setattr(workflow, "score_split", lambda *_: pytest.fail("a model was scored"))
    models = [folders[0], folders[0]]
    models[position] = "no-such-model"
    with pytest.raises(TrackingError, match="no-such-model"):
        compare(models[0], models[1], settings, "dev")


@pytest.mark.parametrize(("split", "protocol", "words"), [("", "full", "name is empty"), ("dev", "coco-5k", "coco-5k")])
def test_a_wrong_split_or_protocol_is_refused(
    split: str, protocol: str, words: str, folders: tuple[str, str], tiny_dataset: Path
) -> None:
    settings = resolve(None, {"data.path": str(tiny_dataset), "evaluate.protocol": protocol}, environ={}).settings
    with pytest.raises(HireError, match=words):
        compare(*folders, settings, split)


def test_the_command_prints_every_recall_and_the_conclusion(
    folders: tuple[str, str], tiny_dataset: Path, tmp_path: Path
) -> None:
    arguments = ["compare", *folders, "--data", str(tiny_dataset), "--split", "dev", "--json", str(tmp_path / "c.json")]
    result = CliRunner().invoke(app, [*arguments, "--limit", "6", "--set", "evaluate.bootstrap=20"])
    assert result.exit_code == 0, result.output
    rows = [f"{direction} R@{k}" for direction in ("image to text", "text to image") for k in (1, 5, 10)]
    first_line = result.output.splitlines()[0]
    assert first_line.startswith(f"Evaluating {folders[0]} and {folders[1]} on relational scenes: digest ")
    assert first_line.endswith("split dev, 6 images.")
    for part in (f"A: {folders[0]}", f"B: {folders[1]}", "6 images", "A - B", "rSum", "larger than chance", *rows):
        assert part in result.output
    assert json.loads((tmp_path / "c.json").read_text("utf-8"))["bootstrap"] == 20


def test_contrasts_are_made_measured_and_stored(
    folders: tuple[str, str], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    contrasts, figures = tmp_path / "c.jsonl", tmp_path / "f.json"
    made = CliRunner().invoke(app, ["data", "contrasts", str(tiny_dataset), "--split", "dev", "--out", str(contrasts)])
    assert made.exit_code == 0 and "negation" in made.output, made.output
    missing = {"image": "unknown.jpg", "true": ["a dog"], "false": ["a cat"], "kind": "roles"}
    with contrasts.open("a", encoding="utf-8") as file:
        file.write(json.dumps(missing) + "\n")

    arguments = ["evaluate", "--model", folders[0], "--model", folders[1], "--data", str(tiny_dataset)]
    arguments += ["--split", "dev", "--contrasts", str(contrasts), "--json", str(figures)]
    arguments += ["--report", str(tmp_path / "r.html")]
    shown = CliRunner().invoke(app, [*arguments, "--set", "evaluate.bootstrap=20"])
    assert shown.exit_code == 0, shown.output
    for part in (
        "roles",
        "colours",
        "order",
        "negation",
        "blind",
        "no relations",
        "not in the split: 1 (with 1 items",
        "unknown.jpg",
    ):
        assert part in shown.output
    whole = Result.model_validate_json(figures.read_text("utf-8"))
    stored, metrics = whole.contrasts, whole.metrics()
    assert stored is not None and stored.files == [str(contrasts)]
    assert (stored.missing_images, stored.items_left_out, stored.bootstrap) == (["unknown.jpg"], 1, 20)
    lines = contrasts.read_text("utf-8").splitlines()
    assert sum(kind.items for kind in stored.kinds.values()) == len(lines) - 1
    page = (tmp_path / "r.html").read_text("utf-8")
    for kind, row in stored.kinds.items():
        assert metrics[f"contrasts/ensemble2/{kind}/model"] == row.model.accuracy
        assert f'<th scope="row">{kind}</th><td>{row.model.accuracy:.1f}<small>' in page


def test_judgements_are_measured_printed_stored_and_shown_in_the_report(
    folders: tuple[str, str], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    split, random = Dataset.open(tiny_dataset).split("dev"), np.random.default_rng(0)
    pairs = [(image, text) for image in range(len(split.images)) for text in split.texts[::7]]
    rows = [
        {"image": split.image_id(image), "text": text, "grades": random.integers(1, 5, 3).tolist()}
        for image, text in pairs
    ]
    rows.append({"image": "unknown.jpg", "text": "a dog", "grades": [1]})
    graded, figures, page = tmp_path / "graded.jsonl", tmp_path / "f.json", tmp_path / "r.html"
    graded.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    arguments = ["evaluate", "--model", folders[0], "--data", str(tiny_dataset), "--split", "dev"]
    arguments += ["--judgements", str(graded), "--json", str(figures), "--report", str(page)]
    shown = CliRunner().invoke(app, [*arguments, "--set", "evaluate.bootstrap=20"])
    assert shown.exit_code == 0, shown.output
    result = Result.model_validate_json(figures.read_text("utf-8"))
    assert result.judgements is not None and result.judgements.bootstrap == 20
    agreement = result.judgements.sets["graded"]
    assert (agreement.pairs, agreement.grades, agreement.pairs_left_out) == (len(pairs), 3 * len(pairs), 1)
    assert abs(agreement.tau_c) < 30  # the grades are random
    assert result.metrics()["judgements/graded/tau_c"] == agreement.tau_c
    assert f"{agreement.tau_c:.1f}" in shown.output and "unknown.jpg" in shown.output
    assert f'<th scope="row">graded</th><td>{agreement.tau_c:.1f}<small>' in page.read_text("utf-8")


def test_an_existing_contrast_file_is_not_replaced(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("mine")
    arguments = ["data", "contrasts", str(tiny_dataset), "--out", str(tmp_path / "c.jsonl")]
    assert "exists already" in str(CliRunner().invoke(app, arguments).exception)
    assert (tmp_path / "c.jsonl").read_text() == "mine"
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0
    assert (tmp_path / "c.jsonl").read_text().startswith('{"image": ')


def test_a_faulty_contrast_file_is_refused_before_scoring(
    folders: tuple[str, str], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_workflow, "score_split", lambda *_: pytest.fail("the model was scored"))
    (tmp_path / "c.jsonl").write_text("{}\n{")
    with pytest.raises(HireError, match=r"c\.jsonl, line 1: field 'image' is missing"):
        evaluate_workflow.evaluate([folders[0]], settings, "dev", contrasts=[tmp_path / "c.jsonl"])


def test_hub_correction_is_named_in_every_output_and_refused_without_a_bank(
    folders: tuple[str, str], tiny_dataset: Path, tmp_path: Path
) -> None:
    figures, page = tmp_path / "f.json", tmp_path / "r.html"
    arguments = ["--data", str(tiny_dataset), "--split", "dev", "--json", str(figures), "--report", str(page)]
    arguments += ["--set", "evaluate.bootstrap=0"]
    refused = CliRunner().invoke(app, ["evaluate", "--model", folders[0], *arguments, "--hub-correction"])
    assert isinstance(refused.exception, HireError) and folders[0] in str(refused.exception)
    model, train = artifact.load(folders[0]), Dataset.open(tiny_dataset).split("train")
    model.hubs = collect_bank(model, train, 8, 0.07)
    folder = artifact.save(model, tmp_path / "model")
    results = []
    for option in ([], ["--hub-correction"]):
        shown = CliRunner().invoke(app, ["evaluate", "--model", str(folder), *arguments, *option])
        assert shown.exit_code == 0, shown.output
        result = Result.model_validate_json(figures.read_text("utf-8"))
        fact = "on: 8 training images and captions, temperature 0.07" if option else "off"
        assert result.hub_correction == bool(option) and result.facts["hub correction"] == fact
        assert ("The scores are corrected for hubs" in page.read_text("utf-8")) == bool(option)
        assert ("with hub correction" in shown.output) == bool(option) and f"<dd>{fact}</dd>" in page.read_text("utf-8")
        results.append(result)
    assert results[0].i2t != results[1].i2t or results[0].t2i != results[1].t2i
    assert "full/rsum" in results[0].metrics() and "full/hub-corrected/rsum" in results[1].metrics()


def test_eccv_caption_is_printed_stored_and_shown_in_the_report(
    folders: tuple[str, str], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("eccv_caption", reason="pip install 'hire-model[eccv]'")
    monkeypatch.setenv("COLUMNS", "100")
    split, metrics = Dataset.open(tiny_dataset).split("dev"), load_metrics()
    own = {"t2i": {900 + c: [700 + int(i)] for c, i in enumerate(split.owner)}}
    own["i2t"] = {700 + i: (900 + np.flatnonzero(split.owner == i)).tolist() for i in range(len(split.images))}
    metrics.coco_gts = metrics.cxc_gts = metrics.eccv_gts = own
    metrics.coco_ids = np.array(list(own["t2i"]))
    monkeypatch.setattr(evaluate_workflow, "load_metrics", lambda: metrics)
    figures, page = tmp_path / "f.json", tmp_path / "r.html"
    arguments = ["evaluate", "--model", folders[0], "--data", str(tiny_dataset), "--split", "dev", "--eccv"]
    arguments += ["--json", str(figures), "--report", str(page), "--set", "evaluate.bootstrap=0"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    result = Result.model_validate_json(figures.read_text("utf-8"))
    assert result.eccv is not None
    for side in ("i2t", "t2i"):  # with COCO's own matches, the recalls are the plain ones
        values, plain = getattr(result.eccv, side), getattr(result, side)
        assert [values[f"cxc_r{k}"] for k in (1, 5, 10)] == pytest.approx([plain.r1, plain.r5, plain.r10])
        assert result.metrics()[f"full/{side}_eccv_map_at_r"] == values["eccv_map_at_r"]
        assert f"{values['eccv_map_at_r']:.1f}" in shown.output
    assert "ECCV Caption and CxC" in shown.output and "ECCV Caption and CxC" in page.read_text("utf-8")
