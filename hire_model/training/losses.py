"""Losses: pure functions of a score matrix [B, C] and of who belongs to whom.

`positives` [B, C] is True where caption c describes image b. Such a pair is never a negative, however many captions
an image has. Every positive pair is an anchor once in each direction.
"""

from __future__ import annotations

import torch
from torch import Tensor


def positives(owner: Tensor, images: int) -> Tensor:
    """[B, C] bool from `owner` [C], the index of each caption's image."""
    return torch.arange(images, device=owner.device)[:, None] == owner[None, :]


def hinge(scores: Tensor, positive: Tensor, margin: float, hardest: bool) -> Tensor:
    """Two-way hinge, averaged over the positive pairs (VSE++, Faghri et al. 2018, eq. 6; the sum form is eq. 5).

    hardest: only the highest-scoring negative of each anchor counts, otherwise all of them are added up. With all
    scores equal the hardest form is 2 * margin: a loss that stays there is the known collapse.
    """
    image, caption = positive.nonzero(as_tuple=True)
    anchor = scores[image, caption][:, None]
    to_captions = (margin + scores[image] - anchor).clamp(min=0).masked_fill(positive[image], 0)
    to_images = (margin + scores.T[caption] - anchor).clamp(min=0).masked_fill(positive.T[caption], 0)
    if hardest:
        return (to_captions.amax(dim=1) + to_images.amax(dim=1)).mean()
    return (to_captions.sum(dim=1) + to_images.sum(dim=1)).mean()


def infonce(scores: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Symmetric cross-entropy over the batch (van den Oord et al. 2018, eq. 4), other positives left out of the sum."""
    image, caption = positive.nonzero(as_tuple=True)
    logits = scores / temperature
    anchor = logits[image, caption]
    others = positive.clone()
    forward = _log_sum(logits[image], others[image], anchor)
    backward = _log_sum(logits.T[caption], others.T[caption], anchor)
    return (forward + backward).mean() / 2


def _log_sum(rows: Tensor, positive: Tensor, anchor: Tensor) -> Tensor:
    """-log softmax of `anchor` [n] among itself and the negatives of `rows` [n, m]."""
    negatives = rows.masked_fill(positive, float("-inf"))
    return torch.logsumexp(torch.cat([anchor[:, None], negatives], dim=1), dim=1) - anchor
