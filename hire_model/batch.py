"""The few dataclasses that everything passes: shapes are documented here, once.

Letters: B images, C captions, R regions of the longest image in the batch, L word pieces of the longest caption,
E relations of all images in the batch together, F input feature size, D embedding size.
"""

from __future__ import annotations

import dataclasses
from typing import Self

import torch
from torch import Tensor


class _Movable:
    """Dataclasses of tensors that travel to a device together."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch with every tensor on `device`."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True)
class Regions(_Movable):
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
class Tokens(_Movable):
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
class EncodedImages(_Movable):
    """What `Hire.encode_image` gives: all that scoring needs of an image, computed once per image.

    regions  [B, R, P] after the implicit and explicit relations, in the space in which pairs are compared
    mask     [B, R] bool
    summary  [B, D] unit vector, g_I
    """

    regions: Tensor
    mask: Tensor
    summary: Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __getitem__(self, index: slice | Tensor) -> EncodedImages:
        return EncodedImages(self.regions[index], self.mask[index], self.summary[index])


@dataclasses.dataclass(frozen=True)
class EncodedTexts(_Movable):
    """What `Hire.encode_text` gives: all that scoring needs of a caption, computed once per caption.

    words    [C, L, P]
    mask     [C, L] bool
    summary  [C, D] unit vector, g_T
    """

    words: Tensor
    mask: Tensor
    summary: Tensor

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __getitem__(self, index: slice | Tensor) -> EncodedTexts:
        return EncodedTexts(self.words[index], self.mask[index], self.summary[index])


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
class Batch(_Movable):
    """One training batch of B images and C captions.

    regions  the images
    tokens   the captions
    owner    [C] int64, index within the batch of each caption's image
    """

    regions: Regions
    tokens: Tokens
    owner: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on `device`."""
        return Batch(
            self.regions.to(device, non_blocking),
            self.tokens.to(device, non_blocking),
            self.owner.to(device, non_blocking=non_blocking),
        )
