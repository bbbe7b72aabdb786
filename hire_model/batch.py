"""Dataclasses of tensors that all packages exchange. Their shapes are documented here.

Letters in shapes: B images, C captions, R regions of the largest image in the batch, L word pieces of the longest
caption, E relations of all images in the batch, F input feature size, D embedding size (model.dim), P size of the pair
stages (model.pair_dim, or D if that is 0), K edge maps of the graphs, H size of the text encoder's states, d size of a
relation role.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class _TensorGroup:
    """Base of dataclasses whose tensors move to a device together."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy with every tensor on `device`."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


@dataclasses.dataclass(frozen=True)
class Regions(_TensorGroup):
    """Detected regions of B images, padded to R.

    Attributes:
        features: [B, R, F] float32, zero where padded.
        boxes: [B, R, 4] float32, x1 y1 x2 y2 as fractions of width and height, zero where `boxed` is False.
        mask: [B, R] bool, True for a real region.
        boxed: [B, R] bool, True where the region has a box.
        classes: [B, R] int64, -1 where unknown or padded.
        relations: [E, 4] int64, rows (image within the batch, subject, predicate, object). Subject and object are
            region indices.
        relation_scores: [E] float32 in 0-1.
        graph_boxed: [B, R] bool, True where the spatial graph may use the box; None: wherever there is one.
    """

    features: Tensor
    boxes: Tensor
    mask: Tensor
    boxed: Tensor
    classes: Tensor
    relations: Tensor
    relation_scores: Tensor
    graph_boxed: Tensor | None = None

    def __len__(self) -> int:
        return self.mask.shape[0]


@dataclasses.dataclass(frozen=True)
class Tokens(_TensorGroup):
    """Word pieces of C captions, padded to L.

    Attributes:
        ids: [C, L] int64, 0 where padded.
        mask: [C, L] bool, True for a real word piece, special tokens included.
        states: [C, L, H] float32, precomputed token states of a frozen encoder; None if there are none.
    """

    ids: Tensor
    mask: Tensor
    states: Tensor | None = None

    def __len__(self) -> int:
        return self.mask.shape[0]


@dataclasses.dataclass(frozen=True)
class EncodedImages(_TensorGroup):
    """The result of `Hire.encode_image`: all image data that scoring needs, computed once per image.

    Attributes:
        regions: [B, R, P] after the implicit and explicit relations, in the space of the pair stages.
        mask: [B, R] bool.
        summary: [B, D] unit vector, g_I; with towers, D is the size of their embeddings.
        edges: [B, K, R, R] weights of the graph edges; None if the model does not match relations.
        shares: [B, R] share of each region in the means over an image, zero where padded; None if all are equal.
    """

    regions: Tensor
    mask: Tensor
    summary: Tensor
    edges: Tensor | None = None
    shares: Tensor | None = None

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __getitem__(self, index: slice | Tensor) -> EncodedImages:
        edges = None if self.edges is None else self.edges[index]
        shares = None if self.shares is None else self.shares[index]
        return EncodedImages(self.regions[index], self.mask[index], self.summary[index], edges, shares)

    def extract(self, row: int) -> EncodedImages:
        """Return image `row` without padding, as a copy that does not keep the others in memory."""
        item, n = slice(row, row + 1), int(self.mask[row].sum())
        edges = None if self.edges is None else self.edges[item, :, :n, :n].clone()
        shares = None if self.shares is None else self.shares[item, :n].clone()
        return EncodedImages(
            self.regions[item, :n].clone(), self.mask[item, :n].clone(), self.summary[item].clone(), edges, shares
        )

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedImages]) -> EncodedImages:
        """Concatenate the images of all parts, padded to the longest. A single part is returned unchanged."""
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
        shares = (
            None if parts[0].shares is None else _pad_blocks([part.shares for part in parts if part.shares is not None])
        )
        return cls(regions, mask, torch.cat([part.summary for part in parts]), edges, shares)


@dataclasses.dataclass(frozen=True)
class EncodedTexts(_TensorGroup):
    """The result of `Hire.encode_text`: all caption data that scoring needs, computed once per caption.

    Attributes:
        words: [C, L, P].
        mask: [C, L] bool.
        summary: [C, D] unit vector, g_T, of the size of g_I.
        roles: [C, L, 2Kd] vectors of each word as subject and as object of a relation; None if the model does not
            match relations.
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
        item, n = slice(row, row + 1), int(self.mask[row].sum())
        roles = None if self.roles is None else self.roles[item, :n].clone()
        return EncodedTexts(
            self.words[item, :n].clone(), self.mask[item, :n].clone(), self.summary[item].clone(), roles
        )

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedTexts]) -> EncodedTexts:
        """Concatenate the captions of all parts, padded to the longest. A single part is returned unchanged."""
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

    Attributes:
        total: [B, C] the score that ranks: weighted mean of `pair` and `globals`.
        pair: [B, C] S, the result of the pair stages.
        globals: [B, C] S_g = <g_I, g_T>; None without the global head.
    """

    total: Tensor
    pair: Tensor
    globals: Tensor | None


@dataclasses.dataclass(frozen=True)
class Negatives(_TensorGroup):
    """False captions of some captions of a batch.

    Attributes:
        tokens: the N false captions.
        caption: [N] int64, the caption within the batch that each one was made from.
    """

    tokens: Tokens
    caption: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Negatives:
        """Return a copy with every tensor on `device`."""
        caption = self.caption.to(device, non_blocking=non_blocking)
        return Negatives(self.tokens.to(device, non_blocking), caption)


@dataclasses.dataclass(frozen=True)
class Batch:
    """One training batch: B different images, and one caption of each. Caption i describes image i.

    Attributes:
        regions: the B images.
        tokens: the B captions.
        true_relations: [E, 4] int64, relations before they were damaged, as in `Regions`; None: undamaged.
        negatives: false captions of the same images; None if train.negatives draws none.
    """

    regions: Regions
    tokens: Tokens
    true_relations: Tensor | None = None
    negatives: Negatives | None = None

    def __len__(self) -> int:
        return len(self.regions)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return a copy with every tensor on `device`."""
        true = self.true_relations
        true = None if true is None else true.to(device, non_blocking=non_blocking)
        negatives = None if self.negatives is None else self.negatives.to(device, non_blocking)
        regions, tokens = self.regions.to(device, non_blocking), self.tokens.to(device, non_blocking)
        return Batch(regions, tokens, true, negatives)
