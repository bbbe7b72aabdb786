"""Geometry of pairs of boxes.

All functions take boxes [B, R, 4], x1 y1 x2 y2 as fractions of width and height, and return [B, R, R].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPATIAL_LABELS = ("inside", "covers", "overlap", *(f"direction {k}" for k in range(8)))


def compute_intersection(boxes: Tensor) -> Tensor:
    """Return the area that each pair of boxes has in common."""
    a, b = boxes[:, :, None], boxes[:, None]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def compute_iou(boxes: Tensor) -> Tensor:
    """Return the intersection over union of each pair of boxes; 0 if both are empty."""
    both = compute_intersection(boxes)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)
    return both / (area[:, :, None] + area[:, None] - both).clamp(min=1e-9)


def compute_offsets(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance and angle (-pi..pi, y grows downwards) from the centre of box i to the centre of box j."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    delta = centres[:, None] - centres[:, :, None]  # [B, i, j, 2]
    return delta.norm(dim=-1), torch.atan2(delta[..., 1], delta[..., 0])


def label_spatial_relations(boxes: Tensor) -> Tensor:
    """Return the index in SPATIAL_LABELS of the relation of box i to box j, int64, -1 for no relation.

    These are the 11 spatial relations of ReGAT (Li et al. 2019, section 3.2; labels of Yao et al. 2018): 0 inside,
    1 covers, 2 overlap (IoU of at least 0.5), 3-10 the direction in sectors of 45 degrees if the centres are closer
    than half of the image diagonal. The diagonal of the result is -1.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    inside = (
        (x1[:, :, None] >= x1[:, None])
        & (y1[:, :, None] >= y1[:, None])
        & (x2[:, :, None] <= x2[:, None])
        & (y2[:, :, None] <= y2[:, None])
    )
    distance, angle = compute_offsets(boxes)
    # In fractions of width and height, the image diagonal is sqrt(2) for any aspect ratio.
    sector = (torch.floor((angle + math.pi) / (math.pi / 4)).long() % 8) + 3
    labels = sector.where(distance < math.sqrt(2) / 2, torch.full_like(sector, -1))
    labels = torch.where(compute_iou(boxes) >= 0.5, torch.full_like(labels, 2), labels)
    labels = torch.where(inside.transpose(1, 2), torch.ones_like(labels), labels)
    labels = torch.where(inside, torch.zeros_like(labels), labels)
    return labels.diagonal_scatter(labels.new_full(labels.shape[:2], -1), dim1=1, dim2=2)


PAIR_VALUES = 12


def describe_pairs(boxes: Tensor) -> Tensor:
    """Return [B, R, R, 12], the position and size of box j relative to box i, all values about -3..3.

    Offset of the centres in fractions of the image and in sizes of box i and of box j, logarithms of the ratios of
    width and height, IoU, share of each box inside the other, and the offset of the lower edges.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    size = torch.stack([x2 - x1, y2 - y1], dim=-1).clamp(min=1e-3)  # [B, R, 2]
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    offset = centres[:, None] - centres[:, :, None]  # [B, i, j, 2]
    own, other = size[:, :, None].expand_as(offset), size[:, None].expand_as(offset)
    both = compute_intersection(boxes)
    area_i, area_j = own.prod(dim=-1), other.prod(dim=-1)
    ratios = (other / own).log().clamp(-3, 3)
    shares = torch.stack([both / (area_i + area_j - both), both / area_i, both / area_j], dim=-1)
    lower = (y2[:, None] - y2[:, :, None])[..., None]
    parts = [4 * offset, 3 * torch.tanh(offset / own / 2), 3 * torch.tanh(offset / other / 2), ratios, 2 * shares]
    return torch.cat([*parts, 8 * lower], dim=-1)
