"""Stage 1, region projection: features [B, R, F] -> V0 [B, R, D]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hire_model.batch import Regions
from hire_model.model.class_vectors import ClassVectors
from hire_model.model.layers import EPS, Dropout, make_linear, normalize
from hire_model.settings import ModelSettings

BOX_VALUES = 8


def encode_boxes(regions: Regions) -> Tensor:
    """Return [B, R, 8]: centre x and y, width, height, area, left and lower edge (all in -1..1), 1.

    All values of a region without a box are zero.
    """
    x1, y1, x2, y2 = regions.boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    values = torch.stack(
        [x1 + x2 - 1, y1 + y2 - 1, 2 * width - 1, 2 * height - 1, 2 * width * height - 1, 2 * x1 - 1, 2 * y2 - 1,
         torch.ones_like(x1)],
        dim=-1,
    )  # fmt: skip
    return values * regions.boxed[..., None]


class RegionProjection(nn.Module):
    """Stage 1: a Linear on normalised features; ours: plus a Linear on the box, plus a vector of the class.

    Args:
        settings: of the model.
        feature_dim: number of features that are used, the first ones of F; others are the embedding of a tower.
        classes: K, number of class vectors; 0 for none.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: ModelSettings, feature_dim: int, classes: int = 0) -> None:
        super().__init__()
        self.norm, self.weights = settings.feature_norm, settings.region_weights
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))
        self.dropout = Dropout(settings.input_dropout)
        self.project = make_linear(feature_dim, settings.dim)
        self.position = make_linear(BOX_VALUES, settings.dim) if settings.box_encoding else None
        self.classes = ClassVectors(classes, settings.dim) if classes else None

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation [F] of the training features; constant features stay unscaled."""
        size = len(self.mean)
        self.mean.copy_(mean[:size])
        self.scale.copy_(1 / std.where(std > 1e-6, torch.ones_like(std))[:size])

    def normalize(self, x: Tensor) -> Tensor:
        """Return the features that are used of [..., F], normalised as model.feature_norm selects."""
        x = x[..., : len(self.mean)]
        if self.norm == "standardise":
            return (x - self.mean) * self.scale
        return normalize(x) if self.norm == "l2" else x

    def compute_shares(self, regions: Regions) -> Tensor | None:
        """Return the share [B, R] of each region in the means over its image; None if all are equal.

        With model.region_weights=area it is the area of its box over the sum of all areas. A region without a box
        counts as the mean box of its image; without any box all regions count alike.
        """
        if self.weights == "equal":
            return None
        boxed = regions.boxed & regions.mask
        area = (regions.boxes[..., 2:] - regions.boxes[..., :2]).clamp(min=0).prod(dim=-1) * boxed
        mean = area.sum(dim=1, keepdim=True) / boxed.sum(dim=1, keepdim=True).clamp(min=1)
        area = torch.where(boxed & (mean > 0), area, mean.where(mean > 0, torch.ones_like(mean))) * regions.mask
        return area / area.sum(dim=1, keepdim=True).clamp(min=EPS)

    def forward(self, regions: Regions) -> Tensor:
        """Return V0 [B, R, D]. The values of padded rows have no meaning."""
        v = self._project(regions.features, regions.mask)
        if self.position is not None:
            v = v + self.position(encode_boxes(regions))
        if self.classes is not None:
            v = v + self.classes(regions)
        return v

    def _project(self, features: Tensor, mask: Tensor) -> Tensor:
        """Project features [B, R, F] to [B, R, D]. In training on a CPU, skip padded rows, often half of them."""
        if not (self.training and features.is_cpu):
            return self.project(self.dropout(self.normalize(features)))
        v = self.project(self.dropout(self.normalize(features[mask])))
        rows = mask.flatten().nonzero()[:, 0]
        return v.new_zeros(mask.numel(), v.shape[1]).index_copy(0, rows, v).view(*mask.shape, -1)
