"""Losses equal simple reference implementations with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hire_model.settings import TrainSettings
from hire_model.training.losses import hinge_loss, infonce_loss, negative_loss


def compute_reference_hinge(scores: np.ndarray, margin: float, hardest: bool) -> float:
    total, size = 0.0, len(scores)
    for i in range(size):
        texts = [max(0, margin + scores[i][c] - scores[i][i]) for c in range(size) if c != i]
        images = [max(0, margin + scores[k][i] - scores[i][i]) for k in range(size) if k != i]
        total += max(texts, default=0) + max(images, default=0) if hardest else sum(texts) + sum(images)
    return total / size


def compute_reference_infonce(scores: np.ndarray, temperature: float) -> float:
    total, size = 0.0, len(scores)
    for i in range(size):
        true = math.exp(scores[i][i] / temperature)
        texts = sum(math.exp(scores[i][c] / temperature) for c in range(size))
        images = sum(math.exp(scores[k][i] / temperature) for k in range(size))
        total += -math.log(true / texts) - math.log(true / images)
    return total / size / 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.booleans())
def test_losses_equal_their_references(seed: int, size: int, hardest: bool) -> None:
    scores = np.random.default_rng(seed).uniform(-1, 1, (size, size))
    square = torch.from_numpy(scores)
    assert float(hinge_loss(square, 0.2, hardest)) == pytest.approx(compute_reference_hinge(scores, 0.2, hardest))
    assert float(infonce_loss(square, 0.1)) == pytest.approx(compute_reference_infonce(scores, 0.1))


def test_a_false_caption_costs_nothing_only_if_the_own_image_rejects_it_more_than_another_image() -> None:
    settings = TrainSettings(loss="hinge", margin=0.2)
    gaps, other_gaps = torch.tensor([0.5, 0.5, 0.1, 0.0]), torch.tensor([0.1, 0.5, 0.0, 0.0])
    assert negative_loss(gaps, other_gaps, settings).tolist() == pytest.approx([0.0, 0.2, 0.1, 0.2])


def test_a_preference_of_the_text_alone_does_not_change_the_loss_of_false_captions() -> None:
    gaps, other_gaps = torch.randn(50), torch.randn(50)
    for loss in ("hinge", "infonce"):
        settings = TrainSettings(loss=loss)
        expected = negative_loss(gaps, other_gaps, settings)
        torch.testing.assert_close(negative_loss(gaps + 0.7, other_gaps + 0.7, settings), expected)
        assert (negative_loss(gaps + 0.1, other_gaps, settings) <= expected).all()
