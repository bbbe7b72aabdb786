"""Scores and gradients on the CPU and, if torch finds one, on a GPU."""

from __future__ import annotations

import model_examples
import numpy as np
import pytest
import torch

from hire_model.model import interaction
from hire_model.model.fused import library

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")]
)
DEVICES = ["cpu", CUDA]
TEXTS = [{"text.kind": "bigru"}, {"text.kind": "bert", "text.tuned": True}]


def score(model, device: str) -> torch.Tensor:
    random = np.random.default_rng(3)
    images = [model_examples.make_image(random) for _ in range(4)]
    captions = [model_examples.make_caption(random) for _ in range(6)]
    regions, tokens = (
        model_examples.make_regions(images).to(device),
        model_examples.make_tokens(model, captions).to(device),
    )
    return model.score(model.encode_image(regions), model.encode_text(tokens)).total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("changes", [*TEXTS, {"graphs": "union"}, {"spatial": "polar", "edge_labels": "bias"}])
def test_scores_equal_those_of_the_cpu(device, changes):
    expected = score(model_examples.make_model(**changes), "cpu")
    torch.testing.assert_close(
        score(model_examples.make_model(**changes).to(device), device).cpu(), expected, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("device", DEVICES)
def test_recomputed_blocks_use_the_same_dropout(device, monkeypatch):
    monkeypatch.setattr(interaction, "_CPU_BLOCK", 1)
    monkeypatch.setattr(interaction, "_GPU_BLOCK", 1)
    gradients = []
    for kept in (1 << 60, 0):  # recompute no block, then every block
        monkeypatch.setattr(interaction, "CPU_KEPT", kept)
        monkeypatch.setattr(interaction, "_GPU_KEPT", kept)
        model = model_examples.make_model(dropout=0.5).to(device).train()
        torch.manual_seed(1)
        score(model, device).square().sum().backward()
        gradients.append({name: weight.grad.cpu() for name, weight in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_checkpoint_gets_a_tensor_that_shows_the_device(monkeypatch):
    """It saves the random state of the devices of its tensor arguments, and does not look inside a dataclass."""
    devices = []

    def spy(function, *arguments, **options):
        devices.append([argument.device for argument in arguments if isinstance(argument, torch.Tensor)])
        return function(*arguments)

    monkeypatch.setattr(interaction, "checkpoint", spy)
    monkeypatch.setattr(interaction, "CPU_KEPT", 0)
    monkeypatch.setenv(library.SWITCH, "0")  # the compiled kernel needs no checkpoint
    score(model_examples.make_model().train(), "cpu")
    assert devices and all(devices)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("changes", TEXTS)
def test_every_gradient_is_finite_in_bf16(device, changes):
    model = model_examples.make_model(**changes).to(device).train()
    dtypes = []
    if changes["text.kind"] == "bigru":
        model.text.gru.register_forward_hook(lambda *call: dtypes.append(call[2][0].data.dtype))
    with torch.autocast(device, torch.bfloat16):
        total = score(model, device)
    total.float().square().sum().backward()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters() if w.grad is not None)
    assert not {torch.float16, torch.bfloat16} & set(dtypes)
