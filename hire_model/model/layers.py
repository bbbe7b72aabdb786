"""Helpers that several stages share, and stage 3, implicit relations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hire_model.settings import ModelSettings

EPS = 1e-12


def normalize(x: Tensor, dim: int = -1) -> Tensor:
    """Scale x to length 1 along `dim`. The gradient is finite at zero, the value of padded rows."""
    return x * torch.rsqrt(x.square().sum(dim=dim, keepdim=True) + EPS)


def masked_mean(x: Tensor, mask: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return the mean of x [..., n, D] over the n that mask [..., n] marks; zero where it marks none.

    `shares` [..., n], which are zero where padded and have the sum 1, are the weights; None weighs all alike.
    """
    if shares is None:
        shares = mask.to(x.dtype)
        shares = shares / shares.sum(dim=-1, keepdim=True).clamp(min=1)
    return (x * shares[..., None].to(x.dtype)).sum(dim=-2)


def mask_out(x: Tensor, mask: Tensor) -> Tensor:
    """Return x, -inf where the mask, broadcast to x, is False. An addition is faster here than `masked_fill`."""
    return x + torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf"))


class Dropout(nn.Dropout):
    """Dropout with a mask of random bytes on a CPU, which takes half as long; the rate is a multiple of 1/256."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of x at random and scale the others, so that the mean stays."""
        if not self.uses_bytes(x):
            return super().forward(x)
        rate = round(256 * self.p)
        return x * (~_draw_dropped(x, rate)).to(x.dtype).mul_(256 / (256 - rate))

    def uses_bytes(self, x: Tensor) -> bool:
        """Return whether x is in training, on a CPU, and the rate is neither 0 nor 1."""
        return self.training and x.device.type == "cpu" and 0 < round(256 * self.p) < 256


class ReluDropout(Dropout):
    """ReLU, then dropout. On a CPU both overwrite the input, and one tensor is kept for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x, which no other operation may need: it is overwritten."""
        if not self.uses_bytes(x):
            return super().forward(torch.relu(x))
        return _ReluDropout.apply(x, round(256 * self.p))  # type: ignore[no-any-return, no-untyped-call]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: int) -> Tensor:
        ctx.scale = 256 / (256 - rate)
        x.relu_().masked_fill_(_draw_dropped(x, rate), 0).mul_(ctx.scale)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.ops.aten.threshold_backward(grad, ctx.saved_tensors[0], 0).mul_(ctx.scale), None


def _draw_dropped(x: Tensor, rate: int) -> Tensor:
    """Return a mask of the shape of x that is True with probability rate / 256."""
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.uint8)[: x.numel()].view(x.shape) < rate


def make_linear(size_in: int, size_out: int, gain: float = 1.0) -> nn.Linear:
    """Return a Linear initialised with Xavier weights times `gain` and zero bias; gain 0 gives the zero map."""
    layer = nn.Linear(size_in, size_out)
    if gain:
        nn.init.xavier_uniform_(layer.weight, gain)
    else:
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ImplicitRelations(nn.Module):
    """Stage 3: one post-norm transformer encoder layer over the fragments of one image or caption.

    With model.residual a Linear initialised to zero adds the layer's output to its input; otherwise the output replaces
    the input.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        dim, heads = settings.dim, settings.implicit_heads
        self.layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, settings.dropout, batch_first=True)
        for name in ("dropout", "dropout1", "dropout2"):
            self.layer.register_module(name, Dropout(settings.dropout))
        self.out = make_linear(dim, dim, gain=0) if settings.residual else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map x [B, n, D] with mask [B, n] to [B, n, D]."""
        y = self.layer(x, src_key_padding_mask=~mask)
        return y if self.out is None else x + self.out(y)
