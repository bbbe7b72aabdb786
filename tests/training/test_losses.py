"""Losses against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hire_model.training.losses import hinge, infonce, positives


def slow_hinge(scores, owner, margin, hardest):
    total = 0.0
    for caption, image in enumerate(owner):
        own = scores[image][caption]
        texts = [max(0, margin + scores[image][c] - own) for c in range(len(owner)) if owner[c] != image]
        pictures = [max(0, margin + scores[i][caption] - own) for i in range(len(scores)) if i != image]
        reduce = max if hardest else sum
        total += reduce(texts, default=0) if hardest else sum(texts)
        total += reduce(pictures, default=0) if hardest else sum(pictures)
    return total / len(owner)


def slow_infonce(scores, owner, temperature):
    total = 0.0
    for caption, image in enumerate(owner):
        own = math.exp(scores[image][caption] / temperature)
        texts = sum(math.exp(scores[image][c] / temperature) for c in range(len(owner)) if owner[c] != image)
        pictures = sum(math.exp(scores[i][caption] / temperature) for i in range(len(scores)) if i != image)
        total += -math.log(own / (own + texts)) - math.log(own / (own + pictures))
    return total / len(owner) / 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 9), st.booleans())
def test_losses_equal_the_slow_ones(seed, images, captions, hardest):
    random = np.random.default_rng(seed)
    scores, owner = random.uniform(-1, 1, (images, captions)), random.integers(0, images, captions)
    matrix, positive = torch.from_numpy(scores), positives(torch.from_numpy(owner), images)
    assert float(hinge(matrix, positive, 0.2, hardest)) == pytest.approx(slow_hinge(scores, owner, 0.2, hardest))
    assert float(infonce(matrix, positive, 0.1)) == pytest.approx(slow_infonce(scores, owner, 0.1))


def test_a_pair_left_out_as_minus_infinity_counts_nowhere():
    scores = torch.tensor([[0.5, -torch.inf, 0.4], [0.1, 0.6, -torch.inf], [-torch.inf, 0.2, 0.9]], requires_grad=True)
    positive = torch.eye(3, dtype=torch.bool)
    for loss in (
        hinge(scores, positive, 0.2, True),
        hinge(scores, positive, 0.2, False),
        infonce(scores, positive, 0.1),
    ):
        (gradient,) = torch.autograd.grad(loss, scores)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_equal_scores_are_the_collapse_value():
    assert float(hinge(torch.zeros(8, 8), torch.eye(8, dtype=torch.bool), 0.2, True)) == pytest.approx(0.4)
