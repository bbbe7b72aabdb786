"""Behaviour tests on scorers whose answer is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from hire_model.data.store import Dataset, Split
from hire_model.evaluation.behaviour import CONTRASTS, FEWEST, TIE, Behaviour, measure_behaviour
from hire_model.scoring.scorer import ImageTextPair, Scorer


@pytest.fixture(scope="module")
def split(tiny_dataset: Path) -> Split:
    return Dataset.open(tiny_dataset).split("train")


class Said:
    """A scorer that looks at the sentence alone."""

    def __init__(self, score: Callable[[str], float]) -> None:
        self.score = score

    def predict(self, pairs: Sequence[ImageTextPair]) -> np.ndarray:
        return np.array([self.score(text) for _, text in pairs], np.float32)


def found(score: Callable[[str], float], split: Split, most: int = 500) -> dict[str, Behaviour]:
    return measure_behaviour(cast(Scorer, Said(score)), split, most)


def test_a_constant_scorer_gets_nothing(split: Split) -> None:
    shares = found(lambda text: 0.5, split)
    assert set(shares) == set(CONTRASTS)
    assert {one.share for one in shares.values()} == {0.0}
    assert {one.interval for one in shares.values()} == {(0.0, 0.0)}


def test_what_differs_by_rounding_is_a_tie(split: Split) -> None:
    truth = set(split.texts)
    assert {one.share for one in found(lambda text: TIE / 2 * (text in truth), split).values()} == {0.0}
    assert {one.share for one in found(lambda text: TIE * 2 * (text in truth), split).values()} == {100.0}


def test_a_bag_of_words_fails_what_only_moves_words(split: Split) -> None:
    """What a scorer without word order can know: shuffled and exchanged captions hold the same words."""
    shares = found(lambda text: float(sum(map(len, sorted(text.lower().strip(".").split())))), split)
    assert shares["shuffle"].share == shares["swap"].share == 0.0


def test_captions_are_spread_over_the_split_and_few_say_nothing(split: Split) -> None:
    shares = found(lambda text: 0.0, split, most=FEWEST)
    assert {one.captions for one in shares.values()} == {FEWEST}
    assert found(lambda text: 0.0, split, most=FEWEST - 1) == {}


def test_the_own_image_is_asked(split: Split) -> None:
    asked: list[ImageTextPair] = []

    class Watching(Said):
        def predict(self, pairs: Sequence[ImageTextPair]) -> np.ndarray:
            asked.extend(pairs)
            return super().predict(pairs)

    measure_behaviour(cast(Scorer, Watching(lambda text: 0.0)), split, most=FEWEST)
    own = {text: int(image) for text, image in zip(split.texts, split.owner, strict=True)}
    for (image, true), (again, changed) in zip(asked[::2], asked[1::2], strict=True):
        assert image is again and changed != true
        np.testing.assert_array_equal(image.features, split.regions(own[true]).features)
