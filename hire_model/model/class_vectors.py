"""Part of stage 1: a learned vector per class name, added to the regions of that class (ours, not in the paper).

A class such as "dog" or "skateboard" says by itself what a picture shows, like a word of a caption. A region without a
class, or with a class that the model does not have, gets no vector. All vectors are zero before training, or are set by
the closed-form start (`warm_start.py`).
"""

from __future__ import annotations

from torch import Tensor, nn

from hire_model.batch import Regions


class ClassVectors(nn.Module):
    """A vector per class.

    Args:
        classes: K, number of classes.
        dim: D.
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.size = classes
        self.table = nn.Embedding(classes, dim)
        nn.init.zeros_(self.table.weight)

    def forward(self, regions: Regions) -> Tensor:
        """Return [B, R, D], the vector of each region's class; zero for ids outside 0 to K - 1."""
        known = self._find_known(regions)
        return self.table(regions.classes.where(known, 0)) * known[..., None]

    def count(self, regions: Regions) -> Tensor:
        """Return [B, K], the number of regions of each class, divided by the number of regions.

        The mean over regions of `forward` is linear in it.
        """
        known = self._find_known(regions).float()
        counts = regions.features.new_zeros(len(regions), self.size)
        counts.scatter_add_(1, regions.classes.where(known > 0, 0), known)
        return counts / regions.mask.sum(dim=1, keepdim=True)

    def set_vectors(self, vectors: Tensor) -> None:
        """Set the first d numbers of each vector to `vectors` [K, d], and the others to zero."""
        self.table.weight.zero_()
        self.table.weight[:, : vectors.shape[1]] = vectors

    def _find_known(self, regions: Regions) -> Tensor:
        return regions.mask & (regions.classes >= 0) & (regions.classes < self.size)
