"""What several stages share: masked means, unit vectors, implicit relations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-12


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """x scaled to length 1 along `dim`. The gradient is finite at zero, where padded rows lie."""
    return x * torch.rsqrt(x.square().sum(dim=dim, keepdim=True) + EPS)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x [..., n, D] over the n that mask [..., n] marks; zero where it marks none."""
    weights = mask.to(x.dtype)
    return (x * weights[..., None]).sum(dim=-2) / weights.sum(dim=-1, keepdim=True).clamp(min=1)


def linear(size_in: int, size_out: int, gain: float = 1.0) -> nn.Linear:
    """A Linear with Xavier weights times `gain` and no bias at first; gain 0 begins as the zero map."""
    layer = nn.Linear(size_in, size_out)
    if gain:
        nn.init.xavier_uniform_(layer.weight, gain)
    else:
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ImplicitRelations(nn.Module):
    """Stage 3: one post-norm transformer encoder layer among the fragments of one image or caption.

    residual: its output is added to its input through a Linear that is zero at first, instead of replacing it.
    """

    def __init__(self, dim: int, heads: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True)
        self.out = linear(dim, dim, gain=0) if residual else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, n, D], mask [B, n] -> [B, n, D]."""
        y = self.layer(x, src_key_padding_mask=~mask)
        return y if self.out is None else x + self.out(y)
