"""`hire score`: the scores of the scorer, best first, with an explanation on request."""

from __future__ import annotations

from pathlib import Path

import pytest
from picture_examples import FLOAT16, import_pictures, save_model
from typer.testing import CliRunner

from hire_model.cli.main import app
from hire_model.data.store import Dataset
from hire_model.errors import HireError
from hire_model.model import artifact
from hire_model.scoring.scorer import Scorer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return import_pictures(tmp_path_factory.mktemp("pictures"), 4)


@pytest.fixture(scope="module")
def model(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(data, tmp_path_factory.mktemp("model"))


def run_score(*arguments: object) -> list[str]:
    return CliRunner().invoke(app, ["score", *map(str, arguments)], catch_exceptions=False).stdout.splitlines()


def test_sentences_are_scored_best_first(data: Dataset, model: Path) -> None:
    texts = ["green paint on zebra", "a large red box", "blue"]
    head, *lines = run_score(data.picture(1), *texts, "--model", model)
    assert head.endswith("96 x 64 pixels, 30 regions (grid regions, EfficientNet-Lite0)")
    assert "          zebra: not in the vocabulary" in lines
    shown = [line.split("  ", 1) for line in map(str.strip, lines) if line[:1] in "-0123456789"]
    expected = Scorer.load(model).rank(data.regions(1), texts)
    assert [text for _, text in shown] == [texts[hit["corpus_id"]] for hit in expected]
    assert [float(score) for score, _ in shown] == pytest.approx([hit["score"] for hit in expected], abs=FLOAT16)


def test_an_explanation_has_a_line_per_word_whose_parts_add_up(data: Dataset, model: Path) -> None:
    _, line, *parts = run_score(data.picture(2), "a large red box", "--model", model, "--explain")
    assert [part.split()[1] for part in parts] == ["a", "large", "red", "box", "[marks]"]
    assert sum(float(part.split()[0]) for part in parts) == pytest.approx(float(line.split()[0]), abs=1e-3)
    assert all(part.count("%") in (2, 4, 6) for part in parts)


def test_a_file_that_is_no_picture_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    for name, reason in (("notes.jpg", "not a picture in a known format"), ("missing.jpg", "cannot be read")):
        with pytest.raises(HireError, match=rf"{name}: {reason}"):
            run_score(tmp_path / name, "a dog", "--model", model)


def test_a_model_trained_on_published_features_says_what_to_do(model: Path, data: Dataset, tmp_path: Path) -> None:
    other = artifact.save(artifact.load(model), tmp_path / "other")
    with pytest.raises(HireError, match="hire data import images"):
        run_score(data.picture(0), "a dog", "--model", other)
