"""The same on a GPU as on a CPU; the GPU's half says that it was skipped where there is none."""

from __future__ import annotations

import model_examples
import numpy as np
import pytest
import torch

from hire_model.model import interaction

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]
)
DEVICES = ["cpu", CUDA]
TEXTS = [{"text.kind": "bigru"}, {"text.kind": "bert", "text.tuned": True}]


def scores(model, device: str) -> torch.Tensor:
    random = np.random.default_rng(3)
    images, captions = (
        [model_examples.image(random) for _ in range(4)],
        [model_examples.caption(random) for _ in range(6)],
    )
    regions, tokens = model_examples.regions(images).to(device), model_examples.tokens(model, captions).to(device)
    return model.score(model.encode_image(regions), model.encode_text(tokens)).total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("changes", [*TEXTS, {"graphs": "union"}, {"spatial": "polar", "edge_labels": "bias"}])
def test_scores_are_those_of_the_cpu(device, changes):
    expected = scores(model_examples.model(**changes), "cpu")
    torch.testing.assert_close(
        scores(model_examples.model(**changes).to(device), device).cpu(), expected, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_computed_again_has_the_dropout_that_it_had(device, monkeypatch):
    monkeypatch.setattr(interaction, "_CPU_BLOCK", 1)
    monkeypatch.setattr(interaction, "_GPU_BLOCK", 1)
    found = []
    for kept in (1 << 60, 0):  # nothing, and then every block, is computed again
        monkeypatch.setattr(interaction, "_CPU_KEPT", kept)
        monkeypatch.setattr(interaction, "_GPU_KEPT", kept)
        model = model_examples.model(dropout=0.5).to(device).train()
        torch.manual_seed(1)
        scores(model, device).square().sum().backward()
        found.append({name: weight.grad.cpu() for name, weight in model.named_parameters()})
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_torch_is_handed_a_tensor_by_which_it_knows_the_device(monkeypatch):
    """It keeps the random state of the devices of its arguments, and finds none in a dataclass."""
    handed = []

    def spy(function, *arguments, **options):
        handed.append([argument.device for argument in arguments if isinstance(argument, torch.Tensor)])
        return function(*arguments)

    monkeypatch.setattr(interaction, "checkpoint", spy)
    monkeypatch.setattr(interaction, "_CPU_KEPT", 0)
    scores(model_examples.model().train(), "cpu")
    assert handed and all(handed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("changes", TEXTS)
def test_every_gradient_is_finite_in_bf16(device, changes):
    model = model_examples.model(**changes).to(device).train()
    states = []
    if changes["text.kind"] == "bigru":
        model.text.gru.register_forward_hook(lambda *seen: states.append(seen[2][0].data.dtype))
    with torch.autocast(device, torch.bfloat16):
        found = scores(model, device)
    found.float().square().sum().backward()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters() if w.grad is not None)
    assert not {torch.float16, torch.bfloat16} & set(states)
