"""The closed-form start is what it says: the CCA of image means and caption means, and it finds what is there."""

from __future__ import annotations

import model_examples
import numpy as np
import pytest
import torch

from hire_model.data.loading import CaptionBank
from hire_model.data.store import Dataset
from hire_model.errors import SettingsError
from hire_model.model.build import build_model
from hire_model.model.captions import build_caption_bank
from hire_model.model.hire import Hire
from hire_model.model.layers import masked_mean
from hire_model.model.vocabulary import learn
from hire_model.model.warm_start import _compute_text_moments, _find_frequent_words, cca, warm_start
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import TrainSettings, resolve


def test_cca_gives_the_correlation_of_two_views_of_one_thing():
    torch.manual_seed(0)
    common = torch.randn(4000, 1)
    x = torch.cat([common + 0.5 * torch.randn(4000, 1), torch.randn(4000, 3)], dim=1)
    y = torch.cat([torch.randn(4000, 2), -common + 0.5 * torch.randn(4000, 1)], dim=1)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    a, b, correlations = cca(x.T @ x / 4000, y.T @ y / 4000, x.T @ y / 4000, 1e-6, 1e-6, 2)
    expected = abs(np.corrcoef(x[:, 0], y[:, 2])[0, 1])
    assert float(correlations[0]) == pytest.approx(expected, abs=0.01) and float(correlations[1]) < 0.1
    assert np.corrcoef((x @ a)[:, 0], (y @ b)[:, 0])[0, 1] == pytest.approx(expected, abs=0.01)


def test_projected_means_are_the_mean_of_projected_items(tiny_dataset):
    """Word by word and region by region it is the same linear map, so that attention starts in one space."""
    split = Dataset.open(tiny_dataset).split("train")
    model = build_model(model_examples.settings(graphs="none", image_implicit=False, text_implicit="off"), split)
    bank = build_caption_bank(model, split.texts)
    correlations = warm_start(model, split, bank, TrainSettings())
    assert (correlations.diff() <= 1e-6).all() and 0 < float(correlations[0]) <= 1
    with torch.inference_mode():
        regions = model_examples.regions([split.regions(0)])
        v = model.regions(regions)[0, regions.mask[0]]
        mean = model.regions.normalize(regions.features)[0, regions.mask[0]].mean(dim=0)
        torch.testing.assert_close(v.mean(dim=0), model.regions.project(mean), atol=1e-4, rtol=1e-4)


def test_recall_rises_above_chance_without_a_step(tiny_dataset):
    split = Dataset.open(tiny_dataset).split("train")
    model = build_model(model_examples.settings(), split)
    bank = build_caption_bank(model, split.texts)

    def mean_rank():
        scores = compute_similarity(model, split, bank)
        own = scores[split.owner, range(len(bank))]
        return (scores >= own).sum(axis=0).mean()

    before = mean_rank()
    warm_start(model, split, bank, TrainSettings(warm_image_ridge=0.1, warm_text_ridge=0.1))
    assert mean_rank() < 0.6 * before


@pytest.fixture
def encoder_model(tiny_dataset):
    """A split, a model with a (random) pretrained encoder that reads its captions, and their bank."""
    split = Dataset.open(tiny_dataset).split("train")
    chosen = model_examples.settings(**{"text.kind": "bert", "graphs": "none", "image_implicit": False})
    words = learn(split.texts, chosen.text)
    torch.manual_seed(0)
    config = model_examples.ENCODER | {"vocab_size": len(words)}
    model = Hire(chosen, split.dataset.manifest.feature_dim, model_examples.PREDICATES, words, config).eval()
    return split, model, CaptionBank.from_lists(words.encode(split.texts))


def test_of_an_encoder_and_its_own_words_both_begin_with_something_to_say(encoder_model):
    split, model, bank = encoder_model

    def correlation(words: bool) -> float:
        tokens = bank.tokens(range(len(bank)))
        with torch.inference_mode():
            states = model.text.encode(tokens)
            t = model.text.project(states) + (model.text.words(tokens.ids) if words else 0)
            captions = masked_mean(t, tokens.mask)
            regions = model_examples.regions([split.regions(row) for row in range(len(split.images))])
            images = masked_mean(model.regions(regions), regions.mask)[split.owner]
        return float(np.corrcoef(images[:, 0], captions[:, 0])[0, 1])

    found = warm_start(model, split, bank, TrainSettings(warm_image_ridge=0.1, warm_text_ridge=0.1))
    assert model.text.words.weight.any() and model.text.project.weight.any()
    # eight numbers of a random encoder tell little; the words say the rest
    assert correlation(words=True) > max(0.5, correlation(words=False) + 0.1)
    assert (found.diff() <= 1e-6).all()


def test_states_and_words_weigh_the_same(encoder_model):
    """In all their numbers together: a thousand words must not drown an encoder's states, nor the other way round."""
    split, model, bank = encoder_model
    images, owner = torch.zeros(len(split.images), 3), torch.from_numpy(split.owner)
    words = _find_frequent_words(bank, len(model.vocabulary))
    moments = _compute_text_moments(model, bank, words, images, owner).balance(model.text.width)
    states, rest = moments.covariance.diagonal().split([model.text.width, len(words[0])])
    assert float(states.sum()) == pytest.approx(float(rest.sum()), rel=1e-4)


def test_it_needs_the_residual_form():
    with pytest.raises(SettingsError, match=r"model\.residual=true"):
        resolve(None, {"train.warm_start": True, "model.residual": False}, {})
