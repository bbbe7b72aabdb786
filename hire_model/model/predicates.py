"""Part of stage 4b: a learned vector per predicate, added to the regions that it relates (ours, not in the paper).

The graph of stage 4 carries the neighbours' states along the edges, so a predicate only weights what a region says. But
a predicate such as "riding" or "swimming in" says by itself what a picture shows. Here it is content, like a word of a
caption: region i gets the sum of the vectors of its relations, one vector per predicate for the subject and one for
the object. All vectors are zero before training, or are set by the closed-form start (`warm_start.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hire_model.batch import Regions


class PredicateVectors(nn.Module):
    """A vector per predicate and end; the first half of `table` belongs to subjects, the second to objects.

    Args:
        predicates: P, number of predicates.
        dim: D.
    """

    def __init__(self, predicates: int, dim: int) -> None:
        super().__init__()
        self.size = predicates
        self.table = nn.Embedding(2 * predicates, dim)
        nn.init.zeros_(self.table.weight)

    def forward(self, regions: Regions, chosen: Tensor) -> Tensor:
        """Return [B, R, D], the summed vectors of each region; `chosen` [E'] are the relations that make edges."""
        image, subject, predicate, object_ = regions.relations[chosen].unbind(1)
        size = regions.mask.shape[1]
        cells = torch.cat([image * size + subject, image * size + object_])
        vectors = self.table(torch.cat([predicate, predicate + self.size]))
        flat = vectors.new_zeros(regions.mask.numel(), vectors.shape[1]).index_add(0, cells, vectors)
        return flat.view(*regions.mask.shape, -1)

    def count(self, regions: Regions, chosen: Tensor) -> Tensor:
        """Return [B, P], the number of relations with each predicate, divided by the number of regions.

        The mean over regions of `forward` is linear in it, if both ends of a predicate have the same vector.
        """
        image, predicate = regions.relations[chosen][:, 0], regions.relations[chosen][:, 2]
        flat = regions.features.new_zeros(len(regions) * self.size)
        flat = flat.index_add(0, image * self.size + predicate, torch.ones_like(predicate, dtype=flat.dtype))
        return flat.view(len(regions), -1) / regions.mask.sum(dim=1, keepdim=True)

    def set_vectors(self, vectors: Tensor) -> None:
        """Set the first d numbers of each vector to half of `vectors` [P, d], for either end; the others to zero."""
        self.table.weight.zero_()
        self.table.weight[:, : vectors.shape[1]] = vectors.repeat(2, 1) / 2
