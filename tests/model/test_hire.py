"""Properties of scores and gradients that hold for each variant of the model."""

from __future__ import annotations

import dataclasses

import model_examples
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from hire_model.batch import Batch, Regions
from hire_model.training.losses import compute_edge_loss

VARIANTS = {  # together they cover each open choice of the paper's description
    "full": {},
    "post-norm": {"residual": False},
    "iou": {"spatial": "iou", "edge_labels": "none"},
    "polar": {"spatial": "polar", "edge_labels": "bias"},
    "union": {"graphs": "union"},
    "no pair stages": {"object_word": False, "object_sentence": False, "word_image": False, "graphs": "none"},
    "i2t, no global head": {"direction": "i2t", "global_head": False, "global_weight": 0},
    "frozen encoder and word vectors": {"text.kind": "bert"},
    "tuned encoder": {"text.kind": "bert", "text.tuned": True, "text.lexical": False},
    "pair stages at full size": {"pair_dim": 0, "feature_norm": "l2", "box_encoding": False},
    "paper, without our additions": {
        "text.kind": "bert", "text.tuned": True, "text.lexical": False, "residual": False, "box_encoding": False,
        "alignment": False, "relation_match": False, "edge_labels": "none", "spatial": "iou", "feature_norm": "none",
        "global_weight": 0.0, "iou_threshold": 0.2, "implicit_heads": 4,
    },
    "t2i, semantic graph, other temperatures": {
        "direction": "t2i", "graphs": "semantic", "edge_labels": "bias", "region_temperature": 2, "word_temperature": 5,
    },
    "spatial graph, no implicit relations": {"graphs": "spatial", "image_implicit": False, "text_implicit": "off"},
    "implicit relations on an encoder's words": {
        "text.kind": "bert", "text_implicit": "on", "spatial": "polar", "polar_kernels": 3, "relation_top": 2,
        "relation_min_score": 0.3,
    },
    "implicit edges": {"implicit_edges": True},
    "regions by area, both directions": {"region_weights": "area"},
    "regions by area, no pair stages": {
        "region_weights": "area", "object_word": False, "direction": "t2i", "graphs": "none", "image_implicit": False,
    },
    "class and predicate vectors": {"class_vectors": True, "predicate_vectors": True},
    "implicit edges, union, labels without gates": {
        "implicit_edges": True, "graphs": "union", "edge_labels": "bias", "residual": False,
    },
}  # fmt: skip
MODELS = {name: model_examples.make_model(**changes) for name, changes in VARIANTS.items()}
variants = st.sampled_from(sorted(MODELS))
seeds = st.integers(0, 2**32 - 1)
few = hypothesis_settings(max_examples=12, deadline=None)


def make_pairs(seed: int, images: int = 3, captions: int = 4):
    random = np.random.default_rng(seed)
    return (
        [model_examples.make_image(random) for _ in range(images)],
        [model_examples.make_caption(random) for _ in range(captions)],
    )


def score(name: str, images, captions) -> torch.Tensor:
    model = MODELS[name]
    with torch.inference_mode():
        return model.score(
            model.encode_image(model_examples.make_regions(images)),
            model.encode_text(model_examples.make_tokens(model, captions)),
        ).total


@few
@given(variants, seeds)
def test_scores_do_not_depend_on_other_items_of_the_batch(name, seed):
    images, captions = make_pairs(seed)
    together = score(name, images, captions)
    random = np.random.default_rng(seed)
    for row, column in ((int(random.integers(3)), int(random.integers(4))) for _ in range(3)):
        alone = score(name, [images[row]], [captions[column]])
        torch.testing.assert_close(together[row, column], alone[0, 0], atol=1e-5, rtol=1e-5)


@few
@given(variants, seeds, st.integers(1, 5))
def test_scores_do_not_depend_on_padding(name, seed, more):
    images, captions = make_pairs(seed)
    model = MODELS[name]
    regions, tokens = model_examples.make_regions(images), model_examples.make_tokens(model, captions)
    wide = Regions(
        # The values of padded rows must not matter either.
        features=pad(regions.features, (0, 0, 0, more), value=3.0),
        boxes=pad(regions.boxes, (0, 0, 0, more), value=0.5),
        mask=pad(regions.mask, (0, more)),
        boxed=pad(regions.boxed, (0, more)),
        classes=pad(regions.classes, (0, more), value=-1),
        relations=regions.relations,
        relation_scores=regions.relation_scores,
    )
    long = dataclasses.replace(tokens, ids=pad(tokens.ids, (0, more), value=2), mask=pad(tokens.mask, (0, more)))
    with torch.inference_mode():
        narrow = model.score(model.encode_image(regions), model.encode_text(tokens)).total
        padded = model.score(model.encode_image(wide), model.encode_text(long)).total
    torch.testing.assert_close(narrow, padded, atol=1e-5, rtol=1e-5)


@few
@given(variants, seeds)
def test_scores_do_not_depend_on_region_order(name, seed):
    random = np.random.default_rng(seed)
    image, captions = model_examples.make_image(random, 6), [model_examples.make_caption(random)]
    order = random.permutation(6)
    new_index = np.argsort(order)
    relations = image.relations.copy()
    relations[:, [0, 2]] = new_index[relations[:, [0, 2]]]
    shuffled = dataclasses.replace(
        image,
        features=image.features[order],
        boxes=image.boxes[order],
        classes=image.classes[order],
        scores=image.scores[order],
        relations=relations,
    )
    torch.testing.assert_close(score(name, [image], captions), score(name, [shuffled], captions), atol=1e-5, rtol=1e-5)


@few
@given(variants, seeds)
def test_scores_of_pairs_equal_those_of_the_matrix(name, seed):
    images, captions = make_pairs(seed)
    model = MODELS[name]
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.integers(0, len(images), 9))
    text = torch.from_numpy(random.integers(0, len(captions), 9))
    with torch.inference_mode():
        v = model.encode_image(model_examples.make_regions(images))
        t = model.encode_text(model_examples.make_tokens(model, captions))
        matrix, pairs = model.score(v, t), model.score_pairs(v, t, image, text)
    torch.testing.assert_close(matrix.total[image, text], pairs.total, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(matrix.pair[image, text], pairs.pair, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_trained_weight_has_a_gradient(name):
    model = model_examples.make_model(**VARIANTS[name])
    images, captions = make_pairs(1)
    for image in images:
        image.boxes[-1] = image.boxes[0]  # overlapping boxes, so that the iou graph has edges
    max(images, key=lambda image: len(image.boxes)).boxes[1] = np.nan  # a pair whose edge only a prediction gives
    regions = model_examples.make_regions(images)
    tokens = model_examples.make_tokens(model, captions)
    scores = model.score(model.encode_image(regions), model.encode_text(tokens))
    (scores.total * torch.randn_like(scores.total)).sum().backward()
    if model.implicit_edges is not None:
        compute_edge_loss(model, Batch(regions, tokens)).backward()
    trained = [(key, weight) for key, weight in model.named_parameters() if weight.requires_grad]
    without_gradient = [key for key, weight in trained if weight.grad is None or not weight.grad.any()]
    assert without_gradient == []


@pytest.mark.parametrize("name", sorted(MODELS))
def test_gradients_are_finite_for_padded_and_equal_regions(name):
    model = model_examples.make_model(**VARIANTS[name])
    random = np.random.default_rng(0)
    single, many = model_examples.make_image(random, 1), model_examples.make_image(random, 6)
    many.boxes[:] = many.boxes[0]  # all centres are the same
    many.features[:] = 0
    scores = model.score(
        model.encode_image(model_examples.make_regions([single, many])),
        model.encode_text(model_examples.make_tokens(model, ["dog", "a cat"])),
    )
    scores.total.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_boxes_and_relations_change_the_score_unless_they_are_disabled():
    images, captions = make_pairs(3)
    without = [  # boxes and relations
        dataclasses.replace(
            image,
            boxes=np.full_like(image.boxes, np.nan),
            relations=image.relations[:0],
            relation_scores=image.scores[:0],
        )
        for image in images
    ]
    assert not torch.allclose(score("full", images, captions), score("full", without, captions), atol=1e-4)
    disabled = model_examples.make_model(graphs="none", box_encoding=False)
    with torch.inference_mode():
        same = [
            disabled.score(
                disabled.encode_image(model_examples.make_regions(x)),
                disabled.encode_text(model_examples.make_tokens(disabled, captions)),
            ).total
            for x in (images, without)
        ]
    torch.testing.assert_close(*same)


def test_unknown_words_and_empty_captions_have_finite_scores():
    images, _ = make_pairs(5)
    assert torch.isfinite(score("full", images, ["", "zzz qqq", "🐕", "\u202eabc", "a" * 5000])).all()


@pytest.mark.parametrize("kept", [1, 1 << 40])
def test_blocks_and_recomputing_do_not_change_scores_or_gradients(kept, monkeypatch):
    images, captions = make_pairs(7, images=4, captions=6)
    results = []
    for block in (1, 1 << 30):
        monkeypatch.setattr("hire_model.model.interaction._CPU_BLOCK", block)
        monkeypatch.setattr("hire_model.model.interaction.CPU_KEPT", kept if block == 1 else 1 << 40)
        model = model_examples.make_model()
        v = model.encode_image(model_examples.make_regions(images))
        total = model.score(v, model.encode_text(model_examples.make_tokens(model, captions))).total
        total.square().sum().backward()
        results.append((total.detach(), [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)
