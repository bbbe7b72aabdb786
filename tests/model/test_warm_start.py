"""The closed-form start sets both projections to the CCA of image means and caption means."""

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
from hire_model.model.vocabulary import learn_vocabulary
from hire_model.model.warm_start import _compute_text_moments, _find_frequent_words, solve_cca, warm_start
from hire_model.scoring.matrix import compute_similarity
from hire_model.settings import TrainSettings, resolve


def test_cca_finds_the_common_direction_of_two_data_sets():
    torch.manual_seed(0)
    common = torch.randn(4000, 1)
    x = torch.cat([common + 0.5 * torch.randn(4000, 1), torch.randn(4000, 3)], dim=1)
    y = torch.cat([torch.randn(4000, 2), -common + 0.5 * torch.randn(4000, 1)], dim=1)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    a, b, correlations = solve_cca(x.T @ x / 4000, y.T @ y / 4000, x.T @ y / 4000, 1e-6, 1e-6, 2)
    expected = abs(np.corrcoef(x[:, 0], y[:, 2])[0, 1])
    assert float(correlations[0]) == pytest.approx(expected, abs=0.01) and float(correlations[1]) < 0.1
    assert np.corrcoef((x @ a)[:, 0], (y @ b)[:, 0])[0, 1] == pytest.approx(expected, abs=0.01)


def test_the_mean_of_projected_regions_equals_the_projected_mean(tiny_dataset):
    split = Dataset.open(tiny_dataset).split("train")
    model = build_model(model_examples.make_settings(graphs="none", image_implicit=False, text_implicit="off"), split)
    bank = build_caption_bank(model, split.texts)
    correlations = warm_start(model, split, bank, TrainSettings())
    assert (correlations.diff() <= 1e-6).all() and 0 < float(correlations[0]) <= 1
    with torch.inference_mode():
        regions = model_examples.make_regions([split.regions(0)])
        v = model.regions(regions)[0, regions.mask[0]]
        mean = model.regions.normalize(regions.features)[0, regions.mask[0]].mean(dim=0)
        torch.testing.assert_close(v.mean(dim=0), model.regions.project(mean), atol=1e-4, rtol=1e-4)


def test_ranks_are_above_chance_without_training(tiny_dataset):
    split = Dataset.open(tiny_dataset).split("train")
    model = build_model(model_examples.make_settings(), split)
    bank = build_caption_bank(model, split.texts)

    def mean_rank():
        scores = compute_similarity(model, split, bank)
        true = scores[split.owner, range(len(bank))]
        return (scores >= true).sum(axis=0).mean()

    before = mean_rank()
    warm_start(model, split, bank, TrainSettings(warm_image_ridge=0.1, warm_text_ridge=0.1))
    assert mean_rank() < 0.6 * before


@pytest.fixture
def encoder_model(tiny_dataset):
    """A split, a model with a random BERT encoder, and the caption bank."""
    split = Dataset.open(tiny_dataset).split("train")
    settings = model_examples.make_settings(**{"text.kind": "bert", "graphs": "none", "image_implicit": False})
    vocabulary = learn_vocabulary(split.texts, settings.text)
    torch.manual_seed(0)
    config = model_examples.ENCODER | {"vocab_size": len(vocabulary)}
    model = Hire(settings, split.dataset.manifest.feature_dim, model_examples.PREDICATES, vocabulary, config).eval()
    return split, model, CaptionBank.from_lists(vocabulary.encode(split.texts))


def test_encoder_states_and_word_vectors_both_contribute_from_the_start(encoder_model):
    split, model, bank = encoder_model

    def correlation(words: bool) -> float:
        tokens = bank.tokens(range(len(bank)))
        with torch.inference_mode():
            states = model.text.encode(tokens)
            t = model.text.project(states) + (model.text.words(tokens.ids) if words else 0)
            captions = masked_mean(t, tokens.mask)
            regions = model_examples.make_regions([split.regions(row) for row in range(len(split.images))])
            images = masked_mean(model.regions(regions), regions.mask)[split.owner]
        return float(np.corrcoef(images[:, 0], captions[:, 0])[0, 1])

    correlations = warm_start(model, split, bank, TrainSettings(warm_image_ridge=0.1, warm_text_ridge=0.1))
    assert model.text.words.weight.any() and model.text.project.weight.any()
    # The 8-dimensional states of a random encoder carry little information; the words carry the rest.
    assert correlation(words=True) > max(0.5, correlation(words=False) + 0.1)
    assert (correlations.diff() <= 1e-6).all()


def test_states_and_words_have_the_same_total_variance(encoder_model):
    split, model, bank = encoder_model
    images, owner = torch.zeros(len(split.images), 3), torch.from_numpy(split.owner)
    words = _find_frequent_words(bank, len(model.vocabulary))
    moments = _compute_text_moments(model, bank, words, images, owner).balance(model.text.width)
    states, frequencies = moments.covariance.diagonal().split([model.text.width, len(words[0])])
    assert float(states.sum()) == pytest.approx(float(frequencies.sum()), rel=1e-4)


def test_a_warm_start_without_the_residual_form_is_refused():
    with pytest.raises(SettingsError, match=r"model\.residual=true"):
        resolve(None, {"train.warm_start": True, "model.residual": False}, {})
