"""Implicit edges: predict the edges of the graphs from what a region pair looks like (ours, not in the paper).

A detector loses relations and finds false ones. A small network predicts the relation of each pair from the states of
both regions and the geometry of their boxes. The graphs use its prediction in two ways (hire_model/model/graph.py):

- a pair without an explicit edge gets the predicted ones, weighted by their probability;
- an explicit edge counts more if its relation is also predicted.

The explicit edges of undamaged training images are the labels (`compute_edge_loss` in hire_model/training/losses.py).
No other loss trains the network: if it could help to match captions directly, it would memorise the training images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hire_model.batch import Regions
from hire_model.data.boxes import PAIR_VALUES, SPATIAL_LABELS, describe_pairs
from hire_model.model.layers import make_linear

_HIDDEN = 32
_NONE_AT_START = 6.0  # logit of no relation before training: hardly any edge is predicted


@dataclass(frozen=True)
class PredictedEdges:
    """Logits of the relation of each pair of regions, the last one for no relation.

    Attributes:
        semantic: [B, R, R, predicates + 1].
        spatial: [B, R, R, 12].
    """

    semantic: Tensor
    spatial: Tensor


class ImplicitEdges(nn.Module):
    """Predict the relation of each pair of regions: z_rs = ReLU(F1 v_r + F2 v_s + Fg(geometry_rs)), logits = Fo z_rs.

    Args:
        dim: D.
        predicates: number of semantic relations.
    """

    def __init__(self, dim: int, predicates: int) -> None:
        super().__init__()
        self.first = make_linear(dim, _HIDDEN)
        self.second = make_linear(dim, _HIDDEN)
        self.geometry = nn.Sequential(make_linear(PAIR_VALUES, _HIDDEN), nn.ReLU(), make_linear(_HIDDEN, _HIDDEN))
        self.hidden = make_linear(_HIDDEN, _HIDDEN)
        self.semantic = make_linear(_HIDDEN, predicates + 1, gain=0)
        self.spatial = make_linear(_HIDDEN, len(SPATIAL_LABELS) + 1, gain=0)
        for layer in (self.semantic, self.spatial):
            nn.init.constant_(layer.bias[-1:], _NONE_AT_START)

    def forward(self, v: Tensor, regions: Regions) -> PredictedEdges:
        """Predict the relations of pairs of regions v [B, R, D], which gets no gradient."""
        v = v.detach()
        boxed = (regions.boxed[:, :, None] & regions.boxed[:, None])[..., None]
        geometry = self.geometry(describe_pairs(regions.boxes)) * boxed
        pairs = torch.relu(self.first(v)[:, :, None] + self.second(v)[:, None] + geometry)
        pairs = torch.relu(self.hidden(pairs))
        return PredictedEdges(self.semantic(pairs), self.spatial(pairs))


def mark_pairs(mask: Tensor) -> Tensor:
    """Return [B, R, R] bool, True for pairs of two different real regions."""
    diagonal = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask[:, :, None] & mask[:, None] & ~diagonal
