"""The peers in benchmarks/peers: they start as our base, ignore padding, and SCAN's score equals a plain loop."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import model_examples
import numpy as np
import pytest
import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.model.hire import Hire
from hire_model.model.layers import masked_mean, normalize

FOLDER = Path(__file__).parent.parent / "benchmarks" / "peers"
BASE = {"pair_dim": 0, "graphs": "none", "image_implicit": False, "object_word": False, "object_sentence": False}
BASE |= {"word_image": False, "relation_match": False, "text_implicit": "off"}


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import models
    finally:
        sys.path.remove(str(FOLDER))
    return models


def encode(model: Hire) -> tuple[EncodedImages, EncodedTexts]:
    random = np.random.default_rng(0)
    images = [model_examples.make_image(random, count) for count in (2, 5, 3)]
    texts = [model_examples.make_caption(random) for _ in range(4)]
    regions, tokens = model_examples.make_regions(images), model_examples.make_tokens(model, texts)
    return model.encode_image(regions), model.encode_text(tokens)


def test_pooling_starts_as_the_mean_and_can_become_the_maximum(peers: ModuleType) -> None:
    pool, random = peers.GPO(), np.random.default_rng(1)
    x, mask = torch.from_numpy(random.normal(size=(3, 6, 4))).float(), torch.arange(6) < torch.tensor([[2], [6], [4]])
    torch.testing.assert_close(pool(x, mask), masked_mean(x, mask))
    with torch.no_grad():
        pool.out.weight.normal_(std=3)
    weights = pool.weigh_positions(4, x.device)
    expected = sum(
        weight * value for weight, value in zip(weights, x[2, :4].sort(0, descending=True).values, strict=True)
    )
    torch.testing.assert_close(pool(x, mask)[2], expected)
    torch.testing.assert_close(pool(x + 100 * ~mask[..., None], mask), pool(x, mask))


def test_gpo_starts_with_the_global_score_of_the_base_model(peers: ModuleType) -> None:
    base = model_examples.make_model(**BASE)
    gpo = peers.make_peer("GPO", base).eval()
    with torch.no_grad():
        expected, found = base.score(*encode(base)).globals, gpo.score(*encode(gpo))
    torch.testing.assert_close(found.total, expected)
    assert found.globals is None, "the model has one loss"


def test_scan_equals_a_loop_over_words(peers: ModuleType) -> None:
    scan = peers.make_peer("SCAN", model_examples.make_model(**BASE, global_head=False, global_weight=0)).eval()
    with torch.no_grad():
        images, texts = encode(scan)
        found = scan.score(images, texts).total
        for i in range(len(images)):
            v = normalize(images.regions[i][images.mask[i]])
            for c in range(len(texts)):
                t = normalize(texts.words[c][texts.mask[c]])
                a = torch.nn.functional.leaky_relu(t @ v.T, 0.1)
                attention = torch.softmax(9 * a / a.norm(dim=0, keepdim=True), dim=1)
                similarity = (normalize(attention @ v) * t).sum(dim=1)
                assert found[i, c].item() == pytest.approx(similarity.mean().item(), abs=1e-5)
