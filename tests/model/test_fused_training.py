"""The compiled kernel has the gradients and the dropout of torch's pair stages."""

from __future__ import annotations

import copy
import dataclasses

import model_examples
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_fused import MODELS, encode, encoded_items, needs_kernel
from torch import Tensor, nn

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.model.fused import library, scoring, training
from hire_model.model.interaction import score_in_blocks
from hire_model.settings import resolve
from hire_model.training.optim import make_optimizer

few = hypothesis_settings(max_examples=25, deadline=None)
variants = st.sampled_from(sorted(MODELS))


def score_with_kernel(model, images: EncodedImages, texts: EncodedTexts) -> Tensor:
    scores = training.score(model.interaction, images, texts, *model.prepare_sides(images, texts))
    assert scores is not None
    return scores


def score_with_torch(model, images: EncodedImages, texts: EncodedTexts) -> Tensor:
    return score_in_blocks(model.interaction, *model.prepare_sides(images, texts))


def find_gradients(model, compute, images: EncodedImages, texts: EncodedTexts) -> list[Tensor]:
    """Return the scores, and the gradients of a loss of them for the items and the weights."""
    inputs = [x for x in (images.regions, images.edges, texts.words, texts.roles) if x is not None]
    inputs += [x for x in model.interaction.parameters() if x is not None]
    for x in inputs:
        x.requires_grad_()
    scores = compute(model, images, texts)
    weights = torch.linspace(-1, 1, scores.numel()).view_as(scores)
    loss = (scores * weights).sum() + scores.square().sum()
    return [scores.detach(), *torch.autograd.grad(loss, inputs, materialize_grads=True)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * max(1, float(other.abs().max())), rtol=2e-5)


def assert_as_exact(found: list[Tensor], torchs: list[Tensor], exact: list[Tensor]) -> None:
    """Assert that values are as close to those of float64 as torch's in float32, which can be off by 1e-3.

    A word alone in its caption has attention near 1 / |cosine|, so a cosine near 0 multiplies every rounding error.
    """
    for one, other, true in zip(found, torchs, exact, strict=True):
        allowed = 2e-5 * max(1, float(true.abs().max())) + 4 * float((other - true).abs().max())
        assert float((one - true).abs().max()) <= allowed


def convert_to_double(items):
    values = (getattr(items, field.name) for field in dataclasses.fields(items))
    values = (x.detach().double() if x is not None and x.is_floating_point() else x for x in values)
    return type(items)(*values)


def find_exact_gradients(model, compute, images: EncodedImages, texts: EncodedTexts) -> list[Tensor]:
    """Return the gradients that torch finds in float64."""
    return find_gradients(copy.deepcopy(model).double(), compute, convert_to_double(images), convert_to_double(texts))


@needs_kernel
@few
@given(variants, st.data())
def test_the_kernel_gives_the_gradients_of_torch(name, data):
    model = MODELS[name]
    images, texts = data.draw(encoded_items(name))
    found = find_gradients(model, score_with_kernel, images, texts)
    expected = find_gradients(model, score_with_torch, images, texts)
    assert_as_exact(found, expected, find_exact_gradients(model, score_with_torch, images, texts))


class KnownDropout(nn.Module):
    """ReLU and dropout of known values, which the kernel drops."""

    def __init__(self, dropped: Tensor, rate: int) -> None:
        super().__init__()
        self.dropped, self.scale = dropped, 256 / (256 - rate)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).masked_fill(self.dropped, 0) * self.scale


def draw_padded(dropout: library.Dropout, contexts: int, mask: Tensor, size: int) -> Tensor:
    """Return what is dropped [contexts, items, fragments, size]; padding may be anywhere in mask [items, fragments]."""
    kernel = library.load()
    dropped = training.draw_dropped(kernel, dropout, (contexts, *mask.shape, size))
    place = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return dropped.gather(2, place[None, :, :, None].expand(contexts, -1, -1, size))


@needs_kernel
@few
@given(variants, st.data(), st.sampled_from([0.1, 0.5]))
def test_dropout_has_the_gradients_of_torch_with_the_same_mask(name, data, rate):
    model = MODELS[name]
    images, texts = data.draw(encoded_items(name))
    refines = [model.interaction.on_words, model.interaction.on_regions]
    drawn, before = [], training._draw_dropout
    with pytest.MonkeyPatch.context() as patch:
        for refine in refines:
            if refine is not None:
                patch.setattr(refine.dropout, "p", rate)
        patch.setattr(training, "_draw_dropout", lambda refine: drawn.append((refine, before(refine))) or drawn[-1][1])
        model.train()
        found = find_gradients(model, score_with_kernel, images, texts)
        size = images.regions.shape[2]
        for refine, dropout in drawn:
            if refine is None:
                continue
            sides = (len(images), texts.mask) if refine is refines[0] else (len(texts), images.mask)
            dropped = draw_padded(dropout, *sides, size)
            assert dropped.any() or dropped.numel() < 200
            patch.setitem(refine._modules, "dropout", KnownDropout(dropped, dropout.rate))
        expected = find_gradients(model, score_padded, images, texts)
        exact = find_exact_gradients(model, score_padded, images, texts)
    model.eval()
    assert_as_exact(found, expected, exact)


def score_padded(model, images: EncodedImages, texts: EncodedTexts) -> Tensor:
    v, t = model.prepare_sides(images, texts)
    return model.interaction(v[None], t[None])[0]


@needs_kernel
def test_dropout_drops_its_share_of_independent_values():
    dropped = training.draw_dropped(library.load(), library.Dropout(5, 64), (30, 20, 10, 64)).float()
    assert abs(float(dropped.mean()) - 0.25) < 0.003  # 4 standard deviations of 384,000 values
    for axis in range(4):
        for distance in (1, 4):
            one, other = dropped.narrow(axis, distance, dropped.shape[axis] - distance), dropped
            other = other.narrow(axis, 0, dropped.shape[axis] - distance)
            assert abs(float(((one - 0.25) * (other - 0.25)).mean())) < 0.0015
    other_seed = training.draw_dropped(library.load(), library.Dropout(6, 64), (30, 20, 10, 64)).float()
    assert abs(float(((dropped - 0.25) * (other_seed - 0.25)).mean())) < 0.0015


@needs_kernel
def test_gradients_are_the_differences_of_scores():
    model = MODELS["full"]
    with torch.no_grad():
        images, texts = encode(model, images=2, captions=2)
    g = torch.Generator().manual_seed(0)
    weights = list(model.interaction.parameters())
    gradients = find_gradients(model, score_with_kernel, images, texts)[-len(weights) :]

    def compute_loss() -> float:
        scores = score_with_kernel(model, images, texts).double().flatten()
        return float(((scores * torch.linspace(-1, 1, len(scores))).sum() + scores.square().sum()).detach())

    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.randn(weight.shape, generator=g)
        step, losses = 1e-3 / float(direction.norm()), []
        for sign in (1, -2, 1):
            with torch.no_grad():
                weight.add_(sign * step * direction)
            losses.append(compute_loss())
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(
            float((gradient * direction).sum()), rel=0.05, abs=2e-3
        )


@needs_kernel
def test_threads_change_gradients_by_rounding_only_and_not_from_run_to_run(monkeypatch):
    model = MODELS["full"]
    with torch.no_grad():
        images, texts = encode(model, images=31, captions=40)
    one = find_gradients(model, score_with_kernel, images, texts)
    monkeypatch.setattr(training, "choose_threads", lambda *_: 3)
    three = find_gradients(model, score_with_kernel, images, texts)
    assert_same(three, one)
    again = find_gradients(model, score_with_kernel, images, texts)
    assert all(torch.equal(a, b) for a, b in zip(three, again, strict=True))


@needs_kernel
@pytest.mark.parametrize("level", sorted(library.LEVELS))
def test_each_instruction_set_gives_the_same_gradients(level, monkeypatch):
    order = ("DEFAULT", "AVX2", "AVX512")
    if order.index(level) > order.index(torch.backends.cpu.get_cpu_capability()):
        pytest.skip(f"this processor has no {level}")
    model = MODELS["larger than a vector"]
    with torch.no_grad():
        images, texts = encode(model, images=5, captions=30)
    kernel = library.Kernel(library.compile_kernel(level))
    monkeypatch.setattr(scoring, "load", lambda: kernel)
    monkeypatch.setattr(scoring, "_all_packed", {})  # the weights have another layout
    assert_same(
        find_gradients(model, score_with_kernel, images, texts), find_gradients(model, score_with_torch, images, texts)
    )


@needs_kernel
def test_training_draws_its_dropout_from_torch_and_uses_the_kernel(monkeypatch):
    model = MODELS["full"]
    monkeypatch.setattr("hire_model.model.hire.score_in_blocks", None)
    with torch.no_grad():
        images, texts = encode(model, images=3, captions=4)
    model.train()
    try:
        torch.manual_seed(1)
        first, other = (model.score(images, texts).total for _ in range(2))
        torch.manual_seed(1)
        again = model.score(images, texts).total
    finally:
        model.eval()
    assert first.requires_grad and not torch.equal(first, other)
    assert torch.equal(first, again)


@needs_kernel
@pytest.mark.parametrize("train", [True, False])
def test_a_step_of_the_optimizer_changes_the_scores_of_the_kernel(train):
    model = model_examples.make_model(dropout=0.0)
    with torch.no_grad():
        images, texts = encode(model, images=3, captions=4)
    optimizer = make_optimizer(
        model.interaction, resolve("synthetic", ["train.device=cpu", "train.lr=0.1"]).settings.train
    )

    def score_again() -> Tensor:
        with torch.set_grad_enabled(train):
            return model.train(train).score(images, texts).pair

    before = score_again().detach()
    score_with_kernel(model, images, texts).sum().backward()
    optimizer.step()
    after = score_again().detach()
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, score_with_torch(model, images, texts).detach(), atol=1e-5, rtol=1e-5)


@needs_kernel
@pytest.mark.parametrize("name", ["full", "i2t, no global head", "t2i, semantic graph, other temperatures"])
def test_a_value_that_is_not_a_number_reaches_the_score(name):
    model = MODELS[name]
    with torch.no_grad():
        images, texts = encode(model, images=2, captions=2)
    for values, axis in ((images.regions, 1), (texts.words, 0)):
        before, values[0, 0, 0] = values[0, 0, 0].clone(), np.nan
        scores = score_with_kernel(model, images, texts)
        values[0, 0, 0] = before
        assert scores.select(1 - axis, 0).isnan().all()
        assert scores.select(1 - axis, 1).isfinite().all()


@needs_kernel
def test_torch_computes_gradients_of_other_types_other_dropout_and_when_disabled(monkeypatch):
    model = MODELS["full"]
    with torch.no_grad():
        images, texts = encode(model, images=2, captions=2)

    def score():
        return training.score(model.interaction, images, texts, *model.prepare_sides(images, texts))

    assert score() is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert score() is None
    with monkeypatch.context() as patch:
        patch.setitem(model.interaction.on_words._modules, "dropout", nn.Dropout(0.1))
        assert score() is None
    with monkeypatch.context() as patch:
        patch.setenv(library.SWITCH, "0")
        assert score() is None
        model.score(images, texts).total.sum().backward()
    model.zero_grad()
