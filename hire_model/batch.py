"""The few dataclasses that everything passes: shapes are documented here, once.

Letters: B images, C captions, R regions of the longest image in the batch, L word pieces of the longest caption,
E relations of all images in the batch together, F input feature size, D embedding size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class _TensorGroup:
    """A dataclass of tensors that move to a device together."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the same with every tensor on `device`."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


@dataclasses.dataclass(frozen=True)
class Regions(_TensorGroup):
    """Detected regions of B images, padded to R.

    features   [B, R, F] float32, zero where padded
    boxes      [B, R, 4] float32, x1 y1 x2 y2 as fractions of width and height, zero where `boxed` is False
    mask       [B, R] bool, True for a real region
    boxed      [B, R] bool, True where the region has a box
    classes    [B, R] int64, -1 where unknown or padded
    relations  [E, 4] int64, rows (image within the batch, subject, predicate, object); subject and object are
               region indices
    relation_scores [E] float32 in 0-1
    """

    features: Tensor
    boxes: Tensor
    mask: Tensor
    boxed: Tensor
    classes: Tensor
    relations: Tensor
    relation_scores: Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]


@dataclasses.dataclass(frozen=True)
class Tokens(_TensorGroup):
    """Word pieces of C captions, padded to L.

    ids     [C, L] int64, 0 where padded
    mask    [C, L] bool, True for a real word piece (special tokens included)
    states  [C, L, H] float32: token states of a frozen encoder if they were computed beforehand, else None
    """

    ids: Tensor
    mask: Tensor
    states: Tensor | None = None

    def __len__(self) -> int:
        return self.mask.shape[0]


@dataclasses.dataclass(frozen=True)
class EncodedImages(_TensorGroup):
    """The result of `Hire.encode_image`: everything that scoring needs of an image, computed once per image.

    regions  [B, R, P] after the implicit and explicit relations, in the space in which pairs are compared
    mask     [B, R] bool
    summary  [B, D] unit vector, g_I
    edges    [B, K, R, R] what runs from one region to another, None where the model does not match relations
    """

    regions: Tensor
    mask: Tensor
    summary: Tensor
    edges: Tensor | None = None

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __getitem__(self, index: slice | Tensor) -> EncodedImages:
        edges = None if self.edges is None else self.edges[index]
        return EncodedImages(self.regions[index], self.mask[index], self.summary[index], edges)

    def extract(self, row: int) -> EncodedImages:
        """Return image `row` without padding, as a copy that does not keep the others in memory."""
        own, n = slice(row, row + 1), int(self.mask[row].sum())
        edges = None if self.edges is None else self.edges[own, :, :n, :n].clone()
        return EncodedImages(
            self.regions[own, :n].clone(), self.mask[own, :n].clone(), self.summary[own].clone(), edges
        )

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedImages]) -> EncodedImages:
        """Concatenate the images of all parts, padded to the longest. A single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        regions, mask = _pad_blocks([part.regions for part in parts]), _pad_blocks([part.mask for part in parts])
        edges = None
        if parts[0].edges is not None:
            edges = parts[0].edges.new_zeros(*mask.shape[:1], parts[0].edges.shape[1], *2 * mask.shape[1:])
            row = 0
            for part in parts:
                assert part.edges is not None
                edges[row : row + len(part), :, : part.edges.shape[2], : part.edges.shape[3]] = part.edges
                row += len(part)
        return cls(regions, mask, torch.cat([part.summary for part in parts]), edges)


@dataclasses.dataclass(frozen=True)
class EncodedTexts(_TensorGroup):
    """The result of `Hire.encode_text`: everything that scoring needs of a caption, computed once per caption.

    words    [C, L, P]
    mask     [C, L] bool
    summary  [C, D] unit vector, g_T
    roles    [C, L, 2Kd] what each word is at either end of a relation, None where the model does not match relations
    """

    words: Tensor
    mask: Tensor
    summary: Tensor
    roles: Tensor | None = None

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __getitem__(self, index: slice | Tensor) -> EncodedTexts:
        roles = None if self.roles is None else self.roles[index]
        return EncodedTexts(self.words[index], self.mask[index], self.summary[index], roles)

    def extract(self, row: int) -> EncodedTexts:
        """Return caption `row` without padding, as a copy that does not keep the others in memory."""
        own, n = slice(row, row + 1), int(self.mask[row].sum())
        roles = None if self.roles is None else self.roles[own, :n].clone()
        return EncodedTexts(self.words[own, :n].clone(), self.mask[own, :n].clone(), self.summary[own].clone(), roles)

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedTexts]) -> EncodedTexts:
        """Concatenate the captions of all parts, padded to the longest. A single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        words, mask = _pad_blocks([part.words for part in parts]), _pad_blocks([part.mask for part in parts])
        roles = (
            None if parts[0].roles is None else _pad_blocks([part.roles for part in parts if part.roles is not None])
        )
        return cls(words, mask, torch.cat([part.summary for part in parts]), roles)


def _pad_blocks(blocks: Sequence[Tensor]) -> Tensor:
    """Concatenate blocks [n, F, ...], padded with zeros to the longest F."""
    return pad_sequence([row for block in blocks for row in block], batch_first=True)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of B images against C captions.

    total    [B, C] what ranks: the pair score and the global head, weighted
    pair     [B, C] S, of the stages that see both sides
    globals  [B, C] S_g = <g_I, g_T>; None without the global head
    """

    total: Tensor
    pair: Tensor
    globals: Tensor | None


@dataclasses.dataclass(frozen=True)
class Batch:
    """One training batch: B different images, and one caption of each. Caption i describes image i."""

    regions: Regions
    tokens: Tokens

    def __len__(self) -> int:
        return len(self.regions)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the same with every tensor on `device`."""
        return Batch(self.regions.to(device, non_blocking), self.tokens.to(device, non_blocking))
