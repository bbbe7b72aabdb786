"""What boxes say of each other. All functions take boxes [B, R, 4] as x1 y1 x2 y2 fractions and give [B, R, R]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPATIAL_LABELS = ("inside", "covers", "overlap", *(f"direction {k}" for k in range(8)))


def iou(boxes: Tensor) -> Tensor:
    """Intersection over union of each two boxes; 0 where both are empty."""
    a, b = boxes[:, :, None], boxes[:, None]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)
    return both / (area[:, :, None] + area[:, None] - both).clamp(min=1e-9)


def offsets(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and angle (-pi..pi, image axes: y grows downwards) from the centre of box i to that of box j."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    delta = centres[:, None] - centres[:, :, None]  # [B, i, j, 2]
    return delta.norm(dim=-1), torch.atan2(delta[..., 1], delta[..., 0])


def spatial_labels(boxes: Tensor) -> Tensor:
    """The 11 spatial relations of ReGAT (Li et al. 2019, section 3.2; labels of Yao et al. 2018): int64, -1 for none.

    0 inside, 1 covers, 2 overlap (IoU of at least 0.5), 3-10 the direction in sectors of 45 degrees where the
    centres are nearer than half of the image's diagonal. The diagonal is -1. Read as: i is <label> j.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    inside = (
        (x1[:, :, None] >= x1[:, None])
        & (y1[:, :, None] >= y1[:, None])
        & (x2[:, :, None] <= x2[:, None])
        & (y2[:, :, None] <= y2[:, None])
    )
    distance, angle = offsets(boxes)
    # In fractions of width and height the diagonal is sqrt(2), whatever the picture's shape.
    sector = (torch.floor((angle + math.pi) / (math.pi / 4)).long() % 8) + 3
    labels = sector.where(distance < math.sqrt(2) / 2, torch.full_like(sector, -1))
    labels = torch.where(iou(boxes) >= 0.5, torch.full_like(labels, 2), labels)
    labels = torch.where(inside.transpose(1, 2), torch.ones_like(labels), labels)
    labels = torch.where(inside, torch.zeros_like(labels), labels)
    return labels.diagonal_scatter(labels.new_full(labels.shape[:2], -1), dim1=1, dim2=2)
