"""Pairs in blocks of like size: the scores of any other way, and little padding whatever comes together."""

from __future__ import annotations

from typing import Any

import model_examples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.scoring import scorer as scorer_module
from hire_model.scoring.scorer import Scorer

REGIONS, WORDS = (1, 2, 5, 15, 16, 17, 31, 40), (1, 2, 4, 20, 33)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(model_examples.model())


@pytest.fixture(scope="module")
def items(scorer: Scorer) -> tuple[list[EncodedImages], list[EncodedTexts]]:
    """An image of each number of regions and a text of each number of words, encoded alone."""
    random = np.random.default_rng(0)
    images = [scorer.encode_images([model_examples.image(random, regions=count)]) for count in REGIONS]
    return images, [scorer.encode_texts(["dog " * count]) for count in WORDS]


class Spy:
    """`Scorer.score`, and of each of its blocks the pairs and the fragments, padding counted."""

    def __init__(self, scorer: Scorer) -> None:
        self.real, self.pairs, self.fragments, self.items = scorer.score, 0, 0, 0

    def __call__(self, images: EncodedImages, texts: EncodedTexts, *index: np.ndarray) -> np.ndarray:
        self.pairs += len(index[0])
        self.fragments += len(index[0]) * (images.mask.shape[1] + texts.mask.shape[1])
        self.items += len(images) + len(texts)
        return self.real(images, texts, *index)


@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, len(REGIONS) + 1), st.integers(0, len(WORDS) + 1)), max_size=120),
    limits=st.sampled_from([(256, 16_384, 64), (3, 16_384, 0), (256, 60, 5), (1, 1, 0)]),
)
def test_scores_are_those_of_all_pairs_joined_at_once(
    scorer: Scorer,
    items: tuple[list[EncodedImages], list[EncodedTexts]],
    places: list[tuple[int, int]],
    limits: tuple[int, int, int],
) -> None:
    images, texts = ([*side, side[0], side[2]] for side in items)  # two stand there twice
    index = np.array(places, np.int64).reshape(-1, 2).T
    expected = scorer.score(EncodedImages.concatenate(images), EncodedTexts.concatenate(texts), *index)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("_PAIRS", "_FRAGMENTS", "_FEW"), limits, strict=True):
            patch.setattr(scorer_module, name, value)
        found = scorer.score_items(images, texts, *index)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_large_item_costs_the_others_nothing(
    scorer: Scorer, items: tuple[list[EncodedImages], list[EncodedTexts]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image of 40 regions and one long text among 2,000 pairs of 5 and 4: no more than a block is padded."""
    images, texts = items
    spy: Any = Spy(scorer)
    monkeypatch.setattr(scorer, "score", spy)
    index = np.arange(2_000)
    scores = scorer.score_items([images[-1], *[images[2]] * 1_999], [texts[-1], *[texts[2]] * 1_999], index, index)
    assert spy.pairs == len(scores) == 2_000 and len(set(scores[1:])) == 1 != scores[0]
    own = images[2].mask.shape[1] + texts[2].mask.shape[1]
    assert spy.fragments < 1.1 * 2_000 * own
    assert spy.items < 40, "an item that comes again is joined once a block"
