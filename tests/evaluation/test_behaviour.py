"""Behaviour tests with scorers whose result is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from hire_model.data.store import Dataset, Split
from hire_model.evaluation.behaviour import CONTRASTS, MIN_CAPTIONS, TIE, Behaviour, measure_behaviour
from hire_model.scoring.scorer import ImageTextPair, Scorer


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("train")


class TextScorer:
    """A scorer that uses only the text."""

    def __init__(self, score: Callable[[str], float]) -> None:
        self.score = score

    def predict(self, pairs: Sequence[ImageTextPair]) -> np.ndarray:
        return np.array([self.score(text) for _, text in pairs], np.float32)


def measure(score: Callable[[str], float], split: Split, max_captions: int = 500) -> dict[str, Behaviour]:
    return measure_behaviour(cast(Scorer, TextScorer(score)), split, max_captions)


def test_a_constant_scorer_gets_0(split: Split) -> None:
    results = measure(lambda text: 0.5, split)
    assert set(results) == set(CONTRASTS)
    assert {result.share for result in results.values()} == {0.0}
    assert {result.interval for result in results.values()} == {(0.0, 0.0)}


def test_a_difference_below_the_rounding_error_is_a_tie(split: Split) -> None:
    true_captions = set(split.texts)
    tie = measure(lambda text: TIE / 2 * (text in true_captions), split)
    assert {result.share for result in tie.values()} == {0.0}
    win = measure(lambda text: TIE * 2 * (text in true_captions), split)
    assert {result.share for result in win.values()} == {100.0}


def test_a_scorer_without_word_order_gets_0_for_shuffled_and_exchanged_captions(split: Split) -> None:
    results = measure(lambda text: float(sum(map(len, sorted(text.lower().strip(".").split())))), split)
    assert results["shuffle"].share == results["swap"].share == 0.0


def test_the_number_of_captions_is_limited_and_too_few_are_not_reported(split: Split) -> None:
    results = measure(lambda text: 0.0, split, max_captions=MIN_CAPTIONS)
    assert {result.captions for result in results.values()} == {MIN_CAPTIONS}
    assert measure(lambda text: 0.0, split, max_captions=MIN_CAPTIONS - 1) == {}


def test_a_caption_and_its_contrast_are_scored_with_the_captions_image(split: Split) -> None:
    scored: list[ImageTextPair] = []

    class RecordingScorer(TextScorer):
        def predict(self, pairs: Sequence[ImageTextPair]) -> np.ndarray:
            scored.extend(pairs)
            return super().predict(pairs)

    measure_behaviour(cast(Scorer, RecordingScorer(lambda text: 0.0)), split, max_captions=MIN_CAPTIONS)
    owner = {text: int(image) for text, image in zip(split.texts, split.owner, strict=True)}
    for (image, true), (same_image, changed) in zip(scored[::2], scored[1::2], strict=True):
        assert image is same_image and changed != true
        np.testing.assert_array_equal(image.features, split.regions(owner[true]).features)
