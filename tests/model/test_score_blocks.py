"""Scoring in blocks sorted by length equals scoring everything at once, padded: scores, losses and gradients."""

from __future__ import annotations

import model_examples
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.model.hire import Hire
from hire_model.model.interaction import score_in_blocks
from hire_model.training.losses import infonce_loss

MODELS = {
    "both directions and relations": model_examples.make_model(),
    "t2i": model_examples.make_model(direction="t2i", graphs="semantic"),
    "i2t without alignment": model_examples.make_model(direction="i2t", alignment=False, graphs="none"),
}
counts = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def make_mask(lengths: list[int], gaps: bool, generator: torch.Generator) -> Tensor:
    """Return a mask [n, longest + 2] that marks `lengths` fragments, at random places if `gaps`."""
    mask = torch.arange(max(lengths) + 2) < torch.tensor(lengths)[:, None]
    if gaps:
        mask = mask.gather(1, torch.rand(mask.shape, generator=generator).argsort(dim=1))
    return mask


def make_items(model: Hire, regions: list[int], words: list[int], gaps: bool) -> tuple[EncodedImages, EncodedTexts]:
    """Return encoded items with random values, also where padded."""
    g = torch.Generator().manual_seed(0)
    size, dim = model.settings.pair_dim or model.settings.dim, model.settings.dim
    v_mask, t_mask = make_mask(regions, gaps, g), make_mask(words, False, g)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).requires_grad_()

    edges = roles = None
    if model.roles is not None:
        edges = draw(len(regions), model.interaction.relations.kinds, *2 * v_mask.shape[1:])
        roles = draw(*t_mask.shape, model.roles.width)
    return (
        EncodedImages(draw(*v_mask.shape, size), v_mask, draw(len(regions), dim), edges),
        EncodedTexts(draw(*t_mask.shape, size), t_mask, draw(len(words), dim), roles),
    )


def compute_gradients(model: Hire, scores: Tensor, images: EncodedImages, texts: EncodedTexts) -> list[Tensor]:
    """Return the gradients of a loss of `scores`, zero where masked, for the items and the weights."""
    square = scores[: min(scores.shape), : min(scores.shape)]
    loss = infonce_loss(square, 0.1) + scores.square().sum()
    inputs = [images.regions, texts.words, images.edges, texts.roles, *model.interaction.parameters()]
    inputs = [value for value in inputs if value is not None]
    return [loss.detach(), *torch.autograd.grad(loss, inputs, materialize_grads=True)]


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), counts, counts, st.booleans(), st.sampled_from([1, 2_000, 1 << 30]))
def test_blocks_without_padding_have_the_scores_losses_and_gradients_of_the_padded_batch(
    name: str, regions: list[int], words: list[int], gaps: bool, block: int
) -> None:
    model = MODELS[name].eval()
    images, texts = make_items(model, regions, words, gaps)
    padded = model.interaction(*(side[None] for side in model.prepare_sides(images, texts)))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hire_model.model.interaction._CPU_BLOCK", block)
        packed = score_in_blocks(model.interaction, *model.prepare_sides(images, texts))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    expected, found = (compute_gradients(model, scores, images, texts) for scores in (padded, packed))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=2e-5 * max(1, float(one.abs().max())), rtol=1e-4)


def test_each_block_has_only_the_padding_that_its_longest_item_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = MODELS["t2i"].eval(), []
    images, texts = make_items(model, [1, 8, 2, 8], [9, 3, 9, 3], gaps=True)
    sides = model.prepare_sides(images, texts)
    size = 4 * (images.mask.shape[1] + texts.mask.shape[1]) * images.regions.shape[-1]
    monkeypatch.setattr("hire_model.model.interaction._CPU_BLOCK", 4 * size)  # four pairs
    hook = model.interaction.register_forward_pre_hook(
        lambda _, sides: shapes.append((sides[0].mask.shape[1:], sides[1].mask.shape[1:]))
    )
    score_in_blocks(model.interaction, *sides)
    hook.remove()
    assert shapes == [((2, 2), (2, 3)), ((2, 2), (2, 9)), ((2, 8), (2, 3)), ((2, 8), (2, 9))]
