"""`Scorer.score_items` gives the scores of all pairs in one block, with little padding."""

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
    return Scorer(model_examples.make_model())


@pytest.fixture(scope="module")
def items(scorer: Scorer) -> tuple[list[EncodedImages], list[EncodedTexts]]:
    """An image for each number of regions and a text for each number of words, encoded one by one."""
    random = np.random.default_rng(0)
    images = [scorer.encode_images([model_examples.make_image(random, regions=count)]) for count in REGIONS]
    return images, [scorer.encode_texts(["dog " * count]) for count in WORDS]


class ScoreSpy:
    """Calls `Scorer.score`, and counts the pairs, the fragments with padding, and the items of its blocks."""

    def __init__(self, scorer: Scorer) -> None:
        self.score, self.pairs, self.fragments, self.items = scorer.score, 0, 0, 0

    def __call__(self, images: EncodedImages, texts: EncodedTexts, *index: np.ndarray) -> np.ndarray:
        self.pairs += len(index[0])
        self.fragments += len(index[0]) * (images.mask.shape[1] + texts.mask.shape[1])
        self.items += len(images) + len(texts)
        return self.score(images, texts, *index)


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, len(REGIONS) + 1), st.integers(0, len(WORDS) + 1)), max_size=120),
    limits=st.sampled_from([(256, 16_384, 64), (3, 16_384, 0), (256, 60, 5), (1, 1, 0)]),
)
def test_scores_equal_those_of_all_pairs_in_one_block(
    scorer: Scorer,
    items: tuple[list[EncodedImages], list[EncodedTexts]],
    pairs: list[tuple[int, int]],
    limits: tuple[int, int, int],
) -> None:
    images, texts = ([*side, side[0], side[2]] for side in items)  # two items occur twice
    index = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = scorer.score(EncodedImages.concatenate(images), EncodedTexts.concatenate(texts), *index)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("_PAIRS", "_FRAGMENTS", "_FEW"), limits, strict=True):
            patch.setattr(scorer_module, name, value)
        scores = scorer.score_items(images, texts, *index)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_one_large_item_does_not_pad_the_other_blocks(
    scorer: Scorer, items: tuple[list[EncodedImages], list[EncodedTexts]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 pairs, one of them with an image of 40 regions and a long text, the others with 5 regions and 4 words."""
    images, texts = items
    spy: Any = ScoreSpy(scorer)
    monkeypatch.setattr(scorer, "score", spy)
    index = np.arange(2_000)
    scores = scorer.score_items([images[-1], *[images[2]] * 1_999], [texts[-1], *[texts[2]] * 1_999], index, index)
    assert spy.pairs == len(scores) == 2_000 and len(set(scores[1:])) == 1 != scores[0]
    assert spy.fragments < 1.1 * 2_000 * (images[2].mask.shape[1] + texts[2].mask.shape[1])
    assert spy.items < 40, "an item that occurs several times is joined once per block"
