"""Dropout with random bytes, and the mask of a softmax or maximum."""

from __future__ import annotations

import pytest
import torch

from hire_model.model.layers import Dropout, ReluDropout, mask_out


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_the_rate_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)  # not a multiple of eight
    dropped = Dropout(rate)(x)
    assert abs(float((dropped == 0).float().mean()) - rate) < 1 / 512 + 1e-3
    assert abs(float(dropped.mean()) - 1) < 2e-3
    assert len(dropped.unique()) == 2


def test_dropout_depends_on_the_seed_and_drops_the_same_gradients() -> None:
    x = torch.randn(50, 50, requires_grad=True)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(Dropout(0.3)(x))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    (gradient,) = torch.autograd.grad(results[0].sum(), x)
    assert torch.equal(gradient == 0, results[0] == 0)


def test_dropout_does_nothing_in_evaluation_mode_or_at_rate_zero() -> None:
    x = torch.randn(9)
    assert torch.equal(Dropout(0.5).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)


def test_a_masked_value_is_minus_infinity_and_has_no_gradient() -> None:
    x = torch.tensor([[1.0, 5.0], [2.0, 3.0]], requires_grad=True)
    largest = mask_out(x, torch.tensor([[True, False], [True, True]])).amax(dim=1)
    assert largest.tolist() == [1.0, 3.0]
    assert torch.autograd.grad(largest.sum(), x)[0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("training", [True, False])
def test_relu_with_dropout_has_the_values_and_gradients_of_both(training: bool) -> None:
    x = torch.randn(40, 41, requires_grad=True)
    torch.manual_seed(3)
    together = ReluDropout(0.2).train(training)(x * 1)  # a copy, as it is overwritten
    torch.manual_seed(3)
    apart = torch.relu(Dropout(0.2).train(training)(x))
    torch.testing.assert_close(together, apart)
    weights = torch.randn_like(x)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (together, apart)]
    torch.testing.assert_close(*gradients)
