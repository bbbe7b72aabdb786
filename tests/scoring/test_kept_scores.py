"""An interrupted evaluation continues with the missing blocks, never with those of another model or data set."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import model_examples
import numpy as np
import pytest
import torch

from hire_model.data.loading import CaptionBank
from hire_model.data.store import Dataset, Split
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.scoring import kept_scores, matrix
from hire_model.scoring.kept_scores import KeptScores
from hire_model.scoring.matrix import compute_similarity

BLOCKS = 5  # of 8 captions


@pytest.fixture
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("dev")


@pytest.fixture
def model(split: Split) -> Hire:
    return build_model(model_examples.make_settings(), split).eval()


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a matrix of 8 x 40 pairs a large one."""
    monkeypatch.setattr(kept_scores, "MIN_PAIRS", 8 * 40)
    monkeypatch.setattr(matrix, "_ENCODE_BLOCK", 8)


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[np.ndarray, int]]:
    """Return a function that evaluates with kept scores, and returns the matrix and the number of scored blocks."""

    def score(model: Hire, split: Split, stop_at: int = BLOCKS + 1) -> tuple[np.ndarray, int]:
        encode, scored = model.encode_text, 0

        def count(tokens):
            nonlocal scored
            if scored == stop_at:
                raise KeyboardInterrupt
            scored += 1
            return encode(tokens)

        with monkeypatch.context() as patch, KeptScores(tmp_path) as kept:
            patch.setattr(model, "encode_text", count)
            return compute_similarity(model, split, build_bank(model, split), kept=kept), scored

    return score


def build_bank(model: Hire, split: Split) -> CaptionBank:
    return build_caption_bank(model, split.texts)


def list_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("scores/*/*"))


def test_an_interrupted_evaluation_scores_only_the_missing_blocks(score, model, split, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    expected = compute_similarity(model, split, build_bank(model, split))
    with pytest.raises(KeyboardInterrupt):
        score(model, split, stop_at=3)
    assert len(list_files(tmp_path)) == 3
    assert "A repeated evaluation continues" in caplog.text and "Continuing" not in caplog.text
    result, scored = score(model, split)
    assert scored == BLOCKS - 3
    assert np.array_equal(result, expected)
    assert "Continuing an interrupted evaluation: 3 blocks" in caplog.text


def test_the_end_of_the_evaluation_deletes_the_scores_and_an_error_after_the_matrix_keeps_them(
    score, model, split, tmp_path
):
    _, scored = score(model, split)
    assert scored == BLOCKS and not list((tmp_path / "scores").iterdir())
    with pytest.raises(ZeroDivisionError), KeptScores(tmp_path) as kept:
        compute_similarity(model, split, build_bank(model, split), kept=kept)
        _ = 1 / 0
    assert score(model, split)[1] == 0


@pytest.mark.parametrize("changed", ["model", "data set", "split"])
def test_another_model_data_set_or_split_starts_from_the_beginning(
    score, model, split, tmp_path, tiny_dataset, caplog, changed
):
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt):
        score(model, split, stop_at=3)
    assert "another model" not in caplog.text
    other_model, other = copy.deepcopy(model), Dataset.open(tiny_dataset).split("test" if changed == "split" else "dev")
    if changed == "model":
        with torch.no_grad():
            next(other_model.parameters()).add_(1)
    elif changed == "data set":
        other.dataset.manifest = other.dataset.manifest.model_copy(update={"feature_extractor": "another"})
    assert score(other_model, other)[1] == BLOCKS
    assert "are of other models, data sets or splits" in caplog.text
    assert score(model, split)[1] == BLOCKS - 3, "the first evaluation has lost nothing"


@pytest.mark.parametrize("damage", ["one bit", "truncated", "empty", "other shape", "text"])
def test_a_damaged_block_is_scored_again(score, model, split, tmp_path, damage):
    expected = compute_similarity(model, split, build_bank(model, split))
    with pytest.raises(KeyboardInterrupt):
        score(model, split, stop_at=2)
    path = list_files(tmp_path)[0]
    if damage == "other shape":
        np.savez(path, scores=np.zeros((8, 7), np.float32))
    else:
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"one bit": flipped, "truncated": content[:-5], "empty": b"", "text": b"scores"}[damage])
    result, scored = score(model, split)
    assert scored == BLOCKS - 1
    assert np.array_equal(result, expected)


def test_a_small_matrix_is_not_kept(score, model, split, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_scores, "MIN_PAIRS", 8 * 40 + 1)
    with pytest.raises(KeyboardInterrupt):
        score(model, split, stop_at=3)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_goes_on_if_its_scores_cannot_be_written(score, model, split, tmp_path, caplog):
    (tmp_path / "scores").write_text("not a folder")
    result, scored = score(model, split)
    assert scored == BLOCKS and np.isfinite(result).all()
    assert caplog.text.count("scores cannot be kept") == 1


def test_scores_that_nobody_continued_for_a_week_are_deleted(score, model, split, tmp_path, tiny_dataset):
    with pytest.raises(KeyboardInterrupt):
        score(model, split, stop_at=3)
    [old] = (tmp_path / "scores").iterdir()
    week = time.time() - 7 * 24 * 3600
    other = Dataset.open(tiny_dataset).split("test")
    os.utime(old, (week + 3600, week + 3600))
    score(model, other)
    assert old.exists()
    os.utime(old, (week - 3600, week - 3600))
    foreign = tmp_path / "scores" / "experiment-a"
    foreign.mkdir()
    os.utime(foreign, (week - 3600, week - 3600))
    score(model, other)
    assert not old.exists()
    assert foreign.exists(), "only folders with our names are deleted"


def test_scores_that_another_evaluation_uses_stay(score, model, split, tmp_path):
    with KeptScores(tmp_path) as running:
        blocks = running.open(model, split, build_bank(model, split), 8)
        assert blocks is not None
        blocks.write(0, np.zeros((8, 8), np.float32))
        score(model, split)
        assert len(list_files(tmp_path)) == BLOCKS
    assert not list_files(tmp_path)
