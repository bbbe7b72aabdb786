"""Pair scores with gradients and dropout from the compiled kernel, one direction at a time.

Like the scores without gradients, the kernel derives unit vectors, keys and the rest from the encoded items. Torch
computes these values too, because their gradients continue from there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.model.fused.library import Dropout, Gradients, Kernel, Training
from hire_model.model.fused.scoring import Packed, choose_threads, describe, find_kernel, fits, pack
from hire_model.model.interaction import CPU_KEPT, Interaction, Refine, Side
from hire_model.model.layers import ReluDropout

_NAMES = [field[0] for field in Gradients._fields_]
_NO_MEMORY = "The scoring kernel ran out of memory. Use a smaller train.batch."


def score(interaction: Interaction, images: EncodedImages, texts: EncodedTexts, v: Side, t: Side) -> Tensor | None:
    """Return S [B, C] as `Interaction` defines it, with gradients and dropout; None if torch must compute it.

    Args:
        interaction: the pair stages.
        images, texts: the encoded items.
        v, t: the same, with the inputs of the pair stages.
    """
    kernel = find_kernel(interaction, images, texts)
    if kernel is None or not _can_differentiate(interaction, images) or _estimate_kept(v, t) > CPU_KEPT:
        return None
    with torch.no_grad():
        packed = pack(interaction, kernel)
    if packed is None or not fits(packed.choose_model(images, texts), images, texts):
        return None
    scores = []
    for words in (True, False):
        if _has_pass(interaction, words):
            one = _Pass(kernel, packed, interaction, images, texts, words)
            inputs = _list_inputs(interaction, v, t, words)
            scores.append(_PassScores.apply(one, *(inputs.get(name) for name in _NAMES)))
    return sum(scores[1:], scores[0])


def draw_dropped(kernel: Kernel, dropout: Dropout, shape: tuple[int, int, int, int]) -> Tensor:
    """Return which hidden values [contexts, items, fragments, P] the kernel drops; fragments are without padding."""
    dropped = torch.empty(shape, dtype=torch.bool)
    kernel.draw_dropped(dropout, *shape, dropped.data_ptr())
    return dropped


def _can_differentiate(interaction: Interaction, images: EncodedImages) -> bool:
    """Return whether the kernel has this kind and rate of dropout, and the shares need no gradient."""
    refines = [refine for refine in (interaction.on_words, interaction.on_regions) if refine is not None]
    known = all(type(refine.dropout) is ReluDropout and _count_dropped(refine) < 256 for refine in refines)
    return known and not (images.shares is not None and images.shares.requires_grad)


def _estimate_kept(v: Side, t: Side) -> int:
    """Estimate the bytes that both directions keep for the backward pass; `_Pass` allocates them."""
    (images, regions), (captions, words), size = v.mask.shape, t.mask.shape, v.x.shape[-1]
    return images * captions * size * (2 * 3 * 4 + regions + words)


def _count_dropped(refine: Refine) -> int:
    """Return how many of 256 hidden values the kernel drops."""
    return round(256 * refine.dropout.p)


def _has_pass(interaction: Interaction, words: bool) -> bool:
    if words and (interaction.alignment or interaction.relations is not None):
        return True
    return (interaction.max_of_words if words else interaction.max_of_regions) is not None


def _draw_dropout(refine: Refine | None) -> Dropout:
    """Draw the seed of the masks from torch's generator, so that a resumed training draws the same ones."""
    rate = 0 if refine is None or not refine.dropout.training else _count_dropped(refine)
    return Dropout(int(torch.randint(2**62, ())) if rate else 0, rate)


class _Pass:
    """A call of the kernel for one direction: words against images, or regions against captions."""

    def __init__(
        self,
        kernel: Kernel,
        packed: Packed,
        interaction: Interaction,
        images: EncodedImages,
        texts: EncodedTexts,
        words: bool,
    ) -> None:
        self._kernel, self._packed, self._words = kernel, packed, words
        refine, cross = (
            (interaction.on_words, interaction.word_image)
            if words
            else (interaction.on_regions, interaction.object_sentence)
        )
        v, self._v = describe(images.regions, images.mask, images.edges, images.shares)
        t, self._t = describe(texts.words, texts.mask, texts.roles, None)
        self._contexts, self._lanes = (v, t) if words else (t, v)
        self._model = packed.choose_model(images, texts)
        self._threads = choose_threads(len(images) * len(texts), images.regions, texts.words)
        pairs = self._contexts.count, self._lanes.count
        panels = kernel.count_panels(self._model, words, self._lanes)
        if panels < 0:
            raise MemoryError(_NO_MEMORY)
        self._pooled, self._related = torch.empty(*pairs, 3, packed.width), torch.empty(*pairs)
        self._raised = torch.empty(pairs[0], panels, packed.width, kernel.panel, dtype=torch.uint8)
        with torch.no_grad():
            transposed = packed.pack_transposed(refine, cross)
        self.training = Training(
            _draw_dropout(refine),
            *transposed,
            *(kept.data_ptr() for kept in (self._pooled, self._raised, self._related)),
            pairs[1],
            panels,
        )

    def score(self) -> Tensor:
        """Return this direction's part of the scores [B, C]."""
        scores = torch.empty(self._contexts.count, self._lanes.count)
        self._call(self._kernel.score_pass, scores.data_ptr())
        return scores if self._words else scores.T

    def find_gradients(self, upstream: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients of the inputs, from those of the scores [B, C]."""
        found = {name: torch.zeros_like(x, memory_format=torch.contiguous_format) for name, x in inputs.items()}
        addresses = {name: x.data_ptr() for name, x in found.items()}
        upstream = (upstream if self._words else upstream.T).contiguous()
        self._call(self._kernel.find_gradients, upstream.data_ptr(), Gradients(**addresses))
        return found

    def _call(self, function: Any, *arguments: Any) -> None:
        sides = self._contexts, self._lanes, self.training
        if function(self._model, self._words, *sides, *arguments, self._threads):
            raise MemoryError(_NO_MEMORY)


class _PassScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: _Pass, *inputs: Tensor | None) -> Tensor:
        ctx.one = one
        ctx.save_for_backward(*inputs)
        return one.score()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs = {name: x for name, x in zip(_NAMES, ctx.saved_tensors, strict=True) if x is not None}
        found = ctx.one.find_gradients(upstream, inputs)
        return None, *(found.get(name) for name in _NAMES)


def _list_inputs(interaction: Interaction, v: Side, t: Side, words: bool) -> dict[str, Tensor | None]:
    """Return the values that have gradients, by their names in `Gradients`."""
    if words:
        contexts, lanes, refine, cross = v, t, interaction.on_words, interaction.word_image
        pooled = interaction.max_of_words
    else:
        contexts, lanes, refine, cross = t, v, interaction.on_regions, interaction.object_sentence
        pooled = interaction.max_of_regions
    inputs: dict[str, Tensor | None] = {
        "keys": contexts.keys, "summary": contexts.summary, "x": lanes.x, "max_weight": pooled
    }  # fmt: skip
    if refine is not None:
        inputs["first"], inputs["first_bias"] = refine.first.weight, refine.first.bias
        inputs["second"], inputs["second_bias"] = refine.second.weight, refine.second.bias
    if cross is not None:
        inputs["scale"], inputs["scale_bias"] = cross.scale.weight, cross.scale.bias
        inputs["out"], inputs["out_bias"] = cross.out.weight, cross.out.bias
    relations = interaction.relations
    if words and interaction.alignment:
        inputs["gram"], inputs["lengths"] = v.x @ v.x.transpose(1, 2), v.x.norm(dim=-1)
        inputs["weights"] = interaction.weigh_words(t)
    if words and relations is not None and v.relations is not None and t.relations is not None:
        inputs["edges"], inputs["sharpness"] = v.relations, relations.sharpness
        inputs["products"] = relations.multiply_roles(t.relations[None], t.mask[None])[0].transpose(2, 3)
    if refine is not None or "gram" in inputs or "edges" in inputs:
        inputs["directions"] = contexts.directions
    return inputs
