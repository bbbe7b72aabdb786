"""Scores do not depend on batches or blocks, contributions sum to the score, and invalid input is refused."""

from __future__ import annotations

import dataclasses

import model_examples
import numpy as np
import pytest
import torch

from hire_model.data.store import Dataset
from hire_model.errors import DataError
from hire_model.model import artifact
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.scoring import matrix as matrix_module
from hire_model.scoring.explain import MARKS
from hire_model.scoring.matrix import compute_similarity
from hire_model.scoring.scorer import Scorer

VARIANTS = [
    {},
    {"pair_dim": 0},
    {"residual": False, "direction": "t2i"},
    {"direction": "i2t"},
    {"object_word": False, "object_sentence": False, "word_image": False},
    {"global_head": False, "global_weight": 0},
]


@pytest.fixture(scope="module")
def items():
    random = np.random.default_rng(0)
    return [model_examples.make_image(random) for _ in range(5)], [
        model_examples.make_caption(random) for _ in range(4)
    ]


def test_a_pair_has_the_same_score_alone_in_a_list_and_in_any_order(items):
    images, captions = items
    scorer = Scorer(model_examples.make_model())
    pairs = [(image, text) for image in images for text in captions]
    together = scorer.predict(pairs)
    alone = [scorer.predict([pair])[0] for pair in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(scorer.predict(pairs[::-1])[::-1], together, atol=1e-5)
    assert scorer.predict([]).shape == (0,)


def test_predict_does_not_depend_on_the_block_size(items, monkeypatch):
    images, captions = items
    scorer = Scorer(model_examples.make_model())
    pairs = [(image, text) for image in images for text in captions]
    expected = scorer.predict(pairs)
    monkeypatch.setattr("hire_model.scoring.scorer._BLOCK", 2)
    np.testing.assert_allclose(scorer.predict(pairs), expected, atol=1e-5)


def test_rank_orders_images_for_a_text_and_texts_for_an_image(items):
    images, captions = items
    scorer = Scorer(model_examples.make_model())
    hits = scorer.rank(captions[0], images, top_k=3)
    scores = scorer.predict([(image, captions[0]) for image in images])
    assert [hit["corpus_id"] for hit in hits] == np.argsort(-scores)[:3].tolist()
    assert len(scorer.rank(images[0], captions)) == len(captions)


@pytest.mark.parametrize("changes", VARIANTS)
def test_contributions_sum_to_the_score(items, changes):
    images, captions = items
    scorer = Scorer(model_examples.make_model(**changes))
    for image in images:
        for text in (*captions, "a zebra!"):
            result = scorer.explain(image, text)
            assert result.contributions.sum() == pytest.approx(result.score, abs=1e-4)
            assert result.score == pytest.approx(float(scorer.predict([(image, text)])[0]), abs=1e-5)
            assert result.words[-1] == MARKS and result.weights.shape == (len(result.words), len(image.features))
            np.testing.assert_allclose(result.weights.sum(axis=1), 1, atol=1e-4)


def test_an_error_names_the_pair_that_does_not_fit(items):
    images, captions = items
    scorer = Scorer(model_examples.make_model())
    narrow = model_examples.make_image(np.random.default_rng(1))
    object.__setattr__(narrow, "features", narrow.features[:, :3])
    with pytest.raises(DataError, match=r"pair 1: features have shape .*, expected .*7"):
        scorer.predict([(images[0], captions[0]), (narrow, captions[0])])
    with pytest.raises(DataError, match="pair 0: the text is int"):
        scorer.predict([(images[0], 3)])  # type: ignore[list-item]
    with pytest.raises(DataError, match="pair 0: the text contains half a character"):
        scorer.predict([(images[0], "a \ud83d")])


@pytest.mark.parametrize("field", ["boxes", "classes", "relation_scores"])
def test_an_image_with_arrays_of_different_lengths_is_refused(items, field):
    """Otherwise it would use the numbers of the next image in the batch."""
    images, captions = items
    image = next(image for image in images if len(image.features) > 1)
    short = dataclasses.replace(image, **{field: getattr(image, field)[:-1]})
    with pytest.raises(DataError, match=f"pair 0: {field} have shape"):
        Scorer(model_examples.make_model()).predict([(short, captions[0])])


def test_a_loaded_scorer_scores_the_same(items, tmp_path):
    images, captions = items
    model = model_examples.make_model()
    pairs = list(zip(images, captions, strict=False))
    scores = Scorer.load(artifact.save(model, tmp_path)).predict(pairs)
    np.testing.assert_array_equal(scores, Scorer(model).predict(pairs))


@pytest.fixture(scope="module")
def model_and_split(tiny_dataset):
    """A model with its zero-initialised parts filled in, as after training, a split, and the split's captions."""
    split = Dataset.open(tiny_dataset).split("dev")
    model = build_model(model_examples.make_settings(), split)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model, split, build_caption_bank(model, split.texts)


@pytest.mark.parametrize("budget", [1, 100_000, 1 << 30])
def test_the_matrix_does_not_depend_on_the_block_size(model_and_split, budget, monkeypatch):
    model, split, bank = model_and_split
    expected = compute_similarity(model, split, bank)
    monkeypatch.setattr(matrix_module, "_ENCODE_BLOCK", 3)
    np.testing.assert_allclose(compute_similarity(model, split, bank, budget), expected, atol=1e-5)


def test_the_matrix_equals_predict_and_encodes_each_item_once(model_and_split, monkeypatch):
    model, split, bank = model_and_split
    encoded = {"images": 0, "texts": 0}
    encode_image, encode_text = model.encode_image, model.encode_text

    def count_image(regions):
        encoded["images"] += len(regions)
        return encode_image(regions)

    def count_text(tokens):
        encoded["texts"] += len(tokens)
        return encode_text(tokens)

    monkeypatch.setattr(model, "encode_image", count_image)
    monkeypatch.setattr(model, "encode_text", count_text)
    matrix = compute_similarity(model, split, bank)
    assert encoded == {"images": len(split.images), "texts": len(split.captions)}
    scorer = Scorer(model)
    pairs = [(split.regions(row), split.texts[column]) for row in range(3) for column in range(5)]
    np.testing.assert_allclose(scorer.predict(pairs), matrix[:3, :5].ravel(), atol=1e-5)


def test_the_matrix_leaves_the_model_in_training_mode(model_and_split):
    model, split, bank = model_and_split
    model.train()
    compute_similarity(model, split, bank)
    assert model.training
    model.eval()


def test_features_of_another_size_are_refused(model_and_split):
    _, split, bank = model_and_split
    with pytest.raises(DataError, match="the model was trained on 7"):
        compute_similarity(model_examples.make_model(), split, bank)
