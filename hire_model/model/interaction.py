"""The pair stages: 6 object-word attention, 7 cross-level interaction, 8 the score.

All tensors start with a group axis. In each of the G groups, every image (B) is compared with every caption (C). A
matrix is one group; a list of pairs is one group per pair (B = C = 1); a caption with its shortlist is one group with
C = 1. Fragments are the regions of an image or the words of a caption.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.model.layers import EPS, ReluDropout, make_linear, mask_out, masked_mean, normalize
from hire_model.model.relations import RELATED_SHARE, RelationMatch
from hire_model.settings import ModelSettings

# Bytes of the largest tensor of a block. Small blocks stay in a CPU's cache and need less padding, large ones need
# fewer operations (docs/experiments/speed.md).
_CPU_BLOCK, _GPU_BLOCK = 4 << 20, 512 << 20
# Bytes that all blocks may keep for the backward pass, which needs about `_KEPT_TENSORS` tensors of a block's size.
CPU_KEPT, _GPU_KEPT = 3 << 30, 8 << 30
_KEPT_TENSORS = 25


class Refine(nn.Module):
    """Stage 6: v^ = v + F2 ReLU(F1(v * tanh(Fs c) + Fh c)) for a fragment v and its attended vector c.

    c is a weighted sum of the other side's fragments. Fs and Fh are linear, so they can be applied before the weighted
    sum. `keys` applies both once per fragment; attention then sums the results.
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.keys = make_linear(size, 2 * size)
        self.first = make_linear(size, size)
        self.second = make_linear(size, size, gain=0.1)
        self.dropout = ReluDropout(dropout)

    def forward(self, v: Tensor, attended: Tensor) -> Tensor:
        """Refine v [..., n, P] with attended [..., n, 2P], a weighted sum of keys; return [..., n, P]."""
        scale, shift = attended.chunk(2, dim=-1)
        return v + self.second(self.dropout(self.first(torch.addcmul(shift, v, torch.tanh(scale)))))


class CrossLevel(nn.Module):
    """Stage 7: w = sigmoid(g.v / sqrt(P)), u = w v, o = v + ReLU(F(u * tanh(Fs u) + g)).

    v is a fragment, g the summary of the other side.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = make_linear(size, size)
        self.out = make_linear(size, size, gain=0.1)

    def forward(self, v: Tensor, g: Tensor) -> Tensor:
        """Map v [..., n, P] with g [..., P] to [..., n, P]."""
        g = g[..., None, :]
        u = torch.sigmoid((v * g).sum(dim=-1, keepdim=True) * v.shape[-1] ** -0.5) * v
        return v + torch.relu_(self.out(torch.addcmul(g, u, torch.tanh_(self.scale(u)))))


@dataclasses.dataclass(frozen=True)
class Side:
    """Inputs of the pair stages for one side, images or captions: items [...] of n fragments, prepared once per item.

    Attributes:
        x: [..., n, P] fragments.
        directions: [..., n, P] unit vectors of `x`, zero where padded.
        mask: [..., n] bool.
        keys: [..., n, 2P] keys for the other side's `Refine`; None without stage 6.
        summary: [..., P] unit vector of the mean fragment.
        relations: edges [..., K, n, n] of images or roles [..., n, 2Kd] of captions; None if not matched.
        shares: [..., n] share of each fragment in means, zero where padded; None if all are equal.
    """

    x: Tensor
    directions: Tensor
    mask: Tensor
    keys: Tensor | None
    summary: Tensor
    relations: Tensor | None
    shares: Tensor | None = None

    def __getitem__(self, index: Tensor | slice | None) -> Side:
        """Return the items at `index`, a tensor of any shape; None adds a leading group axis."""
        keys = None if self.keys is None else self.keys[index]
        relations = None if self.relations is None else self.relations[index]
        shares = None if self.shares is None else self.shares[index]
        return Side(
            self.x[index], self.directions[index], self.mask[index], keys, self.summary[index], relations, shares
        )

    def select(self, items: Tensor, fragments: Tensor) -> Side:
        """Return items [m], each with its fragments [m, n]; both are indices."""
        row = items[:, None]
        keys, relations = None if self.keys is None else self.keys[row, fragments], self.relations
        if relations is not None and relations.ndim == 4:
            kinds = torch.arange(relations.shape[1], device=items.device)[:, None, None]
            relations = relations[row[..., None, None], kinds, fragments[:, None, :, None], fragments[:, None, None]]
        elif relations is not None:
            relations = relations[row, fragments]
        x, directions, mask = self.x[row, fragments], self.directions[row, fragments], self.mask[row, fragments]
        shares = None if self.shares is None else self.shares[row, fragments]
        return Side(x, directions, mask, keys, self.summary[items], relations, shares)


@dataclasses.dataclass(frozen=True)
class Fragments:
    """Results of stages 6 and 7 for each fragment of each pair.

    Attributes:
        regions: [G, C, B, R, P]; C is 1 if the regions do not depend on the caption.
        words: [G, B, C, L, P]; B is 1 if the words do not depend on the image.
        aligned: [G, B, C, L] part of each word in the alignment score; None without model.alignment.
        related: [G, B, C] S_rel; None without model.relation_match.
    """

    regions: Tensor
    words: Tensor
    aligned: Tensor | None
    related: Tensor | None


class Interaction(nn.Module):
    """Stages 6 to 8 for groups of images and captions.

    `on_regions` refines the regions and `on_words` the words in stage 6. `max_of_regions` and `max_of_words` [P] weight
    the maximum over regions or words in `pool`. These names are keys in the weights of saved models.

    Args:
        settings: the pair stages to build, and their sizes.
        kinds: K, edge maps of the relation match; 0 to build none.
    """

    def __init__(self, settings: ModelSettings, kinds: int) -> None:
        super().__init__()
        size = settings.pair_dim or settings.dim
        self.temperatures = settings.region_temperature, settings.word_temperature
        i2t, t2i = settings.direction != "t2i", settings.direction != "i2t"
        self.on_regions = Refine(size, settings.dropout) if settings.object_word and i2t else None
        self.on_words = Refine(size, settings.dropout) if settings.object_word and t2i else None
        self.alignment = settings.alignment and settings.object_word
        self.relations = RelationMatch(kinds) if kinds else None
        self.object_sentence = CrossLevel(size) if settings.object_sentence and i2t else None
        self.word_image = CrossLevel(size) if settings.word_image and t2i else None
        start = torch.zeros if settings.residual else torch.ones
        self.max_of_regions = nn.Parameter(start(size)) if i2t else None
        self.max_of_words = nn.Parameter(start(size)) if t2i else None

    def prepare_images(self, images: EncodedImages) -> Side:
        """Prepare images for the pair stages."""
        return _prepare_side(images.regions, images.mask, self.on_words, images.edges, images.shares)

    def prepare_texts(self, texts: EncodedTexts) -> Side:
        """Prepare captions for the pair stages."""
        return _prepare_side(texts.words, texts.mask, self.on_regions, texts.roles)

    def forward(self, images: Side, texts: Side) -> Tensor:
        """Score images [G, B] against texts [G, C]: S [G, B, C], mean of the enabled cosines plus a share of S_rel."""
        fragments = self.interact(images, texts)
        parts = []
        if self.max_of_regions is not None:
            shares = None if images.shares is None else images.shares[:, None]
            pooled = pool(fragments.regions, images.mask[:, None], self.max_of_regions, shares)  # [G, C or 1, B, P]
            parts.append((pooled * texts.summary[:, :, None]).sum(dim=-1).transpose(1, 2))
        if self.max_of_words is not None:
            pooled = pool(fragments.words, texts.mask[:, None], self.max_of_words)  # [G, B or 1, C, P]
            parts.append((pooled * images.summary[:, :, None]).sum(dim=-1))
        if fragments.aligned is not None:
            parts.append(fragments.aligned.sum(dim=-1))
        mean = sum(parts[1:], parts[0]) / len(parts)
        return mean if fragments.related is None else mean + RELATED_SHARE * fragments.related

    def interact(self, images: Side, texts: Side) -> Fragments:
        """Run stages 6 and 7 for the directions that model.direction selects."""
        regions, words, aligned, related = images.x[:, None], texts.x[:, None], None, None
        cosine = self.compute_cosine(images, texts)
        if self.on_regions is not None or self.on_words is not None:
            if self.on_regions is not None and texts.keys is not None:
                over_words = self.attend_to_words(cosine, texts.mask).flatten(2, 3)  # [G, C, B*R, L]
                attended = (over_words @ texts.keys).unflatten(2, images.mask.shape[1:])  # [G, C, B, R, 2P]
                regions = self.on_regions(regions, attended)
            over_regions = self.attend_to_regions(cosine, images.mask)  # [G, B, C, L, R]
            if self.on_words is not None and images.keys is not None:
                attended = (over_regions.flatten(2, 3) @ images.keys).unflatten(2, texts.mask.shape[1:])
                words = self.on_words(words, attended)  # attended [G, B, C, L, 2P]
            if self.alignment:
                aligned = self._align(over_regions, cosine, images, texts)
        if self.object_sentence is not None:
            regions = self.object_sentence(regions, texts.summary[:, :, None])
        if self.word_image is not None:
            words = self.word_image(words, images.summary[:, :, None])
        if self.relations is not None and images.relations is not None and texts.relations is not None:
            related = self.relations(cosine, images.relations, texts.relations, images.mask, texts.mask)
        return Fragments(regions, words, aligned, related)

    def compute_cosine(self, images: Side, texts: Side) -> Tensor:
        """Return the cosines [G, B, C, L, R] of words and regions, zero where padded."""
        cosine = texts.directions.flatten(1, 2)[:, None] @ images.directions.transpose(2, 3)
        return cosine.unflatten(2, texts.mask.shape[1:])

    def attend_to_words(self, cosine: Tensor, t_mask: Tensor) -> Tensor:
        """Return the attention of regions over words [G, C, B, R, L].

        As in DIME and SCAN: LeakyReLU of the cosine, scaled to length 1 over the attending axis, then softmax over the
        attended axis. Padding is left out of both.
        """
        a = _scale_to(self.temperatures[0], nn.functional.leaky_relu(cosine, 0.1), dim=4)
        return mask_out(a, t_mask[:, None, :, :, None]).softmax(dim=3).permute(0, 2, 1, 4, 3)

    def attend_to_regions(self, cosine: Tensor, v_mask: Tensor) -> Tensor:
        """Return the attention of words over regions [G, B, C, L, R], computed as in `attend_to_words`."""
        a = _scale_to(self.temperatures[1], nn.functional.leaky_relu(cosine, 0.1), dim=3)
        return mask_out(a, v_mask[:, :, None, None]).softmax(dim=4)

    def _align(self, over_regions: Tensor, cosine: Tensor, images: Side, texts: Side) -> Tensor:
        """Return cos(t_j, e_j) [G, B, C, L] of words and attended regions, weighted by the length of t_j.

        SCAN, Lee et al. 2018, eq. 6, with e_j = sum_r a_jr v_r. <t_j, e_j> follows from the cosines, and |e_j|^2 from
        the products of regions <v_r, v_s>, or from e_j if there are fewer words than regions.
        """
        over, x = over_regions.flatten(2, 3), images.x  # over [G, B, C*L, R]
        if over.shape[2] < over.shape[3]:
            squares = (over @ x).square().sum(dim=-1)
        else:
            squares = ((over @ (x @ x.transpose(2, 3))) * over).sum(dim=-1).clamp(min=0)
        dots = (over_regions * cosine * x.norm(dim=-1)[:, :, None, None]).sum(dim=-1)
        aligned = dots * torch.rsqrt(squares.view_as(dots) + EPS)
        return aligned * self.weigh_words(texts)[:, None]

    def weigh_words(self, texts: Side) -> Tensor:
        """Return the weights [..., L] of words in the alignment score, which sum to 1: their lengths."""
        weights = texts.x.norm(dim=-1) * texts.mask
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def score_in_blocks(interaction: Interaction, images: Side, texts: Side) -> Tensor:
    """Score each of B images against each of C captions: S [B, C].

    Images and captions are sorted by their number of fragments and scored in blocks without the padding that a block
    does not need. The tensors of a block have about `_CPU_BLOCK` or `_GPU_BLOCK` bytes. If all blocks together would
    keep too much memory for the backward pass, each block is recomputed there.
    """
    on_cpu = images.x.device.type == "cpu"
    fragments = images.mask.shape[1] + texts.mask.shape[1]
    pairs = max(1, (_CPU_BLOCK if on_cpu else _GPU_BLOCK) // (4 * fragments * images.x.shape[-1]))  # of a block
    rows, columns = _choose_block(len(images.mask), len(texts.mask), pairs)
    images_by_length, image_order = _split_by_length(images, rows)
    texts_by_length, text_order = _split_by_length(texts, columns)
    recompute = torch.is_grad_enabled() and _estimate_kept(images_by_length, texts_by_length) > (
        CPU_KEPT if on_cpu else _GPU_KEPT
    )
    score = partial(_score_with_recompute, interaction) if recompute else interaction
    scores = torch.cat(
        [torch.cat([score(v[None], t[None])[0] for t in texts_by_length], dim=1) for v in images_by_length]
    )
    return scores[torch.argsort(image_order)][:, torch.argsort(text_order)]


def _score_with_recompute(interaction: Interaction, images: Side, texts: Side) -> Tensor:
    """Score a block, and compute it again in the backward pass with the same dropout.

    `checkpoint` saves the random state of the devices of its tensor arguments. It does not look inside a `Side`, so it
    also gets `images.x`.
    """

    def score(_: Tensor, images: Side, texts: Side) -> Tensor:
        return interaction(images, texts)

    return checkpoint(score, images.x, images, texts, use_reentrant=False)


def _estimate_kept(images: list[Side], texts: list[Side]) -> int:
    """Estimate the bytes that all blocks keep for the backward pass."""
    regions, words = (sum(part.mask.numel() for part in side) for side in (images, texts))
    count_images, count_texts = (sum(len(part.mask) for part in side) for side in (images, texts))
    kept = 4 * (regions * count_texts + words * count_images) * images[0].x.shape[-1] * _KEPT_TENSORS
    if texts[0].relations is None:
        return kept
    # The relation match keeps both role vectors of each region, and as much again for their products with the edges.
    return kept + 8 * regions * count_texts * texts[0].relations.shape[-1]


def _choose_block(images: int, texts: int, pairs: int) -> tuple[int, int]:
    """Return the images and the captions of a block of about `pairs` pairs, as square as possible."""
    side = max(1, int(pairs**0.5))
    columns = min(texts, side)
    rows = min(images, max(1, pairs // columns))
    return rows, min(texts, max(1, pairs // rows))


def _split_by_length(side: Side, size: int) -> tuple[list[Side], Tensor]:
    """Sort items by their number of fragments and cut them into equal parts of at most `size`, each without padding.

    Return the parts, and the order [n] of the items in them. Items without padding are not copied. Waits for a GPU.
    """
    lengths = side.mask.sum(dim=1).cpu()
    order = torch.argsort(lengths, stable=True)
    parts = order.tensor_split(math.ceil(len(order) / size))
    if int(lengths.min()) == side.mask.shape[1]:  # the order is that of `side`
        return [side[slice(int(items[0]), int(items[-1]) + 1)] for items in parts], order.to(side.mask.device)
    fragments = torch.argsort(~side.mask, dim=1, stable=True)  # the real ones first
    selected = []
    for items in parts:
        longest = max(1, int(lengths[items[-1]]))
        items = items.to(side.mask.device)
        selected.append(side.select(items, fragments[items, :longest]))
    return selected, order.to(side.mask.device)


def _prepare_side(
    x: Tensor, mask: Tensor, refine_other: Refine | None, relations: Tensor | None, shares: Tensor | None = None
) -> Side:
    keys = None if refine_other is None else refine_other.keys(x)
    directions = x * (torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + EPS) * mask[..., None])
    return Side(x, directions, mask, keys, normalize(masked_mean(x, mask, shares)), relations, shares)


def _scale_to(length: float, x: Tensor, dim: int) -> Tensor:
    """Scale x to `length` along `dim`."""
    return x * (length * torch.rsqrt(x.square().sum(dim=dim, keepdim=True) + EPS))


def pool(x: Tensor, mask: Tensor, max_weight: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return the unit vector of mean + max_weight [P] * max of x [..., n, P] over the n that mask [..., n] marks.

    For `shares` see `masked_mean`.
    """
    return normalize(masked_mean(x, mask, shares) + max_weight * mask_out(x, mask[..., None]).amax(dim=-2))
