"""Closed-form start: initialise both projections with the canonical correlation (CCA) of images and captions.

On few images, two linear maps learned by gradient descent are worse than the same maps solved in closed form
(docs/experiments/photographs.md). The solution is regularised CCA: Hotelling (1936), with ridges as in Vinod (1976) and
each direction weighted by its correlation (Gong et al. 2014, section 3.4). The other stages start at zero and learn
what linear maps cannot express.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import Regions
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.model.hire import Hire
from hire_model.model.layers import masked_mean
from hire_model.model.text import BiGRU, PretrainedEncoder
from hire_model.progress import show_progress
from hire_model.settings import TrainSettings

# Prefixes of the parameters that `warm_start` sets.
WARM_STARTED = (
    "regions.project.", "regions.classes.", "explicit.predicates.", "text.project.", "text.words.", "text.embedding.",
    "text.skip.",
)  # fmt: skip
_BLOCK = 256
_MAX_WORDS = 4096  # most frequent words; bounds the matrix to decompose, and rare words contribute little


@torch.no_grad()
def warm_start(model: Hire, train: Split, bank: CaptionBank, settings: TrainSettings) -> Tensor:
    """Set the model's two projections to the CCA of the training split.

    An image is represented by the mean of its normalised features, weighted by model.region_weights; with
    model.class_vectors also by the share of each class among its regions, and with model.predicate_vectors by the
    number of its relations with each predicate. Each of these blocks is scaled to the variance of the features. A
    caption is represented by its word frequencies, weighted by the root of the inverse document frequency (BiGRU), by
    the mean of its encoder states (pretrained encoder), or by both, scaled to the same variance (pretrained encoder
    with model.text.lexical). Captions are read in blocks, and only their moments are kept in memory.

    Args:
        model: has the residual form (model.residual), which provides the linear paths to set; `Settings` checks it.
        train: the training split.
        bank: the captions of `train`.
        settings: the ridges.

    Returns:
        The correlations [at most D], in descending order.
    """
    device = next(model.parameters()).device
    names = _find_name_blocks(model)
    sizes = [len(model.regions.mean), *(block.size for block in names)]
    x = _average_regions(model, train, device, names)  # [N, F], or [N, F + classes + predicates]
    mean = x.mean(dim=0)
    x -= mean
    x_scale = _balance_columns(x, sizes)
    x, mean = x * x_scale, mean * x_scale
    lexical = isinstance(model.text, BiGRU) or model.text.words is not None
    words = _find_frequent_words(bank, len(model.vocabulary)) if lexical else None
    texts = _compute_text_moments(model, bank, words, x, torch.from_numpy(train.owner).to(device))
    if isinstance(model.text, PretrainedEncoder):
        texts = texts.balance(model.text.width)
    limit = model.text.embedding.embedding_dim if isinstance(model.text, BiGRU) else model.settings.dim
    size = min(model.settings.dim, limit, x.shape[1], len(texts.mean))
    ridges = settings.warm_image_ridge, settings.warm_text_ridge
    covariance = x.T @ x / len(x)
    a, b, correlations = solve_cca(covariance, texts.covariance, texts.cross, *ridges, size)
    a, b = a * _compute_scale(a, covariance), b * _compute_scale(b, texts.covariance)
    offset, a = -mean @ a, a * x_scale[:, None]
    features, *vectors = a.split(sizes)
    _set_linear(model.regions.project, features, offset)
    for block, rows in zip(names, vectors, strict=True):
        block.set_vectors(rows)
    if model.regions.position is not None:
        model.regions.position.weight.zero_()
    b, offset = b * texts.scale[:, None], -texts.mean @ b
    if isinstance(model.text, BiGRU):
        assert words is not None
        _set_bigru(model.text, b, offset, *words)
    else:
        _set_pretrained(model.text, b, offset, words)
    return correlations


def solve_cca(
    covariance_x: Tensor, covariance_y: Tensor, cross: Tensor, ridge_x: float, ridge_y: float, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the regularised CCA of x and y from their covariances.

    Args:
        covariance_x: [F, F], of the image vectors x.
        covariance_y: [H, H], of the caption vectors y.
        cross: [F, H], cross-covariance of x and y.
        ridge_x: ridge of x, in units of its mean variance.
        ridge_y: ridge of y, in units of its mean variance.
        size: number of directions.

    Returns:
        Maps a [F, size] and b [H, size], each column scaled by its correlation, and the correlations [size].
    """
    root_x, root_y = _invert_root(covariance_x, ridge_x), _invert_root(covariance_y, ridge_y)
    left, correlations, right = torch.linalg.svd(root_x @ cross @ root_y, full_matrices=False)
    correlations = correlations[:size]
    return root_x @ left[:, :size] * correlations, root_y @ right[:size].T * correlations, correlations


def _invert_root(covariance: Tensor, ridge: float) -> Tensor:
    """Return the inverse square root of `covariance` plus the ridge."""
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(covariance + ridge * scale * torch.eye(len(covariance)).to(covariance))
    return vectors * values.clamp(min=1e-12).rsqrt() @ vectors.T


@dataclass(frozen=True)
class _NameBlock:
    """Names as image features: how often each of `size` names occurs in an image, and where their vectors are set.

    Attributes:
        size: number of names.
        count: Regions of B images -> [B, size].
        set_vectors: sets the vectors of all names to [size, d].
    """

    size: int
    count: Callable[[Regions], Tensor]
    set_vectors: Callable[[Tensor], None]


def _find_name_blocks(model: Hire) -> list[_NameBlock]:
    """Return the class names and the predicates, as far as the model has vectors for them."""
    blocks, explicit = [], model.explicit
    if (classes := model.regions.classes) is not None:
        blocks.append(_NameBlock(classes.size, classes.count, classes.set_vectors))
    if explicit is not None and (predicates := explicit.predicates) is not None and (graph := explicit.semantic):

        def count_predicates(regions: Regions) -> Tensor:
            return predicates.count(regions, graph.select_relations(regions))

        blocks.append(_NameBlock(predicates.size, count_predicates, predicates.set_vectors))
    return blocks


def _average_regions(model: Hire, split: Split, device: torch.device, names: list[_NameBlock]) -> Tensor:
    """Return the mean normalised features of each image, and how often each name occurs: [N, F + names]."""
    size = len(model.regions.mean) + sum(block.size for block in names)
    means = torch.empty(len(split.images), size, device=device)
    for start in show_progress(range(0, len(means), _BLOCK), "closed-form start, images"):
        rows = range(start, min(start + _BLOCK, len(means)))
        regions = collate_regions([split.regions(row) for row in rows]).to(device)
        x, shares = model.regions.normalize(regions.features), model.regions.compute_shares(regions)
        mean = masked_mean(x, regions.mask, shares)
        means[rows.start : rows.stop] = torch.cat([mean, *(block.count(regions) for block in names)], dim=1)
    return means


def _balance_columns(x: Tensor, sizes: list[int]) -> Tensor:
    """Return factors that give each block of columns the same total variance as the first block."""
    totals = [block.sum() for block in x.square().mean(dim=0).split(sizes)]
    factors = [(totals[0] / total.clamp(min=1e-12)).sqrt() for total in totals]
    return torch.cat([factor.expand(size) for factor, size in zip(factors, sizes, strict=True)])


@dataclass(frozen=True)
class _Moments:
    """Moments of the caption vectors y.

    Attributes:
        mean: [H].
        covariance: [H, H].
        cross: [F, H], cross-covariance with the centred image vectors x.
        scale: [H], factors that y has been multiplied by.
    """

    mean: Tensor
    covariance: Tensor
    cross: Tensor
    scale: Tensor

    def balance(self, first: int) -> _Moments:
        """Scale the dimensions after the `first` ones so that both groups have the same total variance."""
        variance, scale = self.covariance.diagonal(), self.scale.clone()
        scale[first:] *= (variance[:first].sum() / variance[first:].sum().clamp(min=1e-12)).sqrt()
        return _Moments(self.mean * scale, self.covariance * scale[:, None] * scale, self.cross * scale, scale)


def _compute_text_moments(
    model: Hire, bank: CaptionBank, words: tuple[Tensor, Tensor] | None, x: Tensor, owner: Tensor
) -> _Moments:
    """Compute the moments of all captions. In `cross` each image has the same weight, for any number of captions."""
    counts = torch.bincount(owner, minlength=len(x))
    total, square, cross, sums = (torch.zeros((), device=x.device) for _ in range(4))
    for start in show_progress(range(0, len(bank), _BLOCK), "closed-form start, captions"):
        rows = range(start, min(start + _BLOCK, len(bank)))
        y = _describe_captions(model, bank, rows, words, x.device)
        owners = owner[rows.start : rows.stop]
        images = x[owners] / counts[owners, None]
        total, square = total + y.sum(dim=0), square + y.T @ y
        cross, sums = cross + images.T @ y, sums + images.sum(dim=0)
    mean = total / len(bank)
    covariance = square / len(bank) - mean[:, None] * mean
    return _Moments(mean, covariance, (cross - sums[:, None] * mean) / len(x), torch.ones_like(mean))


def _describe_captions(
    model: Hire, bank: CaptionBank, rows: range, words: tuple[Tensor, Tensor] | None, device: torch.device
) -> Tensor:
    """Return the caption vectors [rows, H]: mean states, then word frequencies, as far as the encoder has them."""
    parts = [average_states(model, bank, rows, device)] if isinstance(model.text, PretrainedEncoder) else []
    if words is not None:
        parts.append(_weigh_words(bank, rows, *words).to(device))
    return torch.cat(parts, dim=1)


def average_states(model: Hire, bank: CaptionBank, rows: range, device: torch.device) -> Tensor:
    """Return the mean encoder states [rows, H] of each caption."""
    assert isinstance(model.text, PretrainedEncoder)
    tokens = bank.tokens(rows).to(device)
    return masked_mean(model.text.encode(tokens) if tokens.states is None else tokens.states, tokens.mask)


def _find_frequent_words(bank: CaptionBank, size: int) -> tuple[Tensor, Tensor]:
    """Return the ids [W] of words in at least two captions, and the roots [W] of inverse document frequencies."""
    caption = np.repeat(np.arange(len(bank)), bank.lengths)
    ids = np.unique(caption * size + bank.ids) % size  # each word once per caption
    documents = torch.from_numpy(np.bincount(ids, minlength=size))
    words = documents.argsort(descending=True, stable=True)[:_MAX_WORDS]
    words = words[documents[words] >= 2]
    return words, torch.log(len(bank) / documents[words].float()).sqrt()


def _weigh_words(bank: CaptionBank, rows: range, words: Tensor, weights: Tensor) -> Tensor:
    """Return the frequency of each word in each caption times the word's weight, [rows, W]."""
    lengths, ids = bank.lengths[rows.start : rows.stop], bank.ids[bank.offsets[rows.start] : bank.offsets[rows.stop]]
    column = np.full(int(max(ids.max(), words.max())) + 1, -1)
    column[words.numpy()] = np.arange(len(words))
    caption, column_of_id = np.repeat(np.arange(len(rows)), lengths), column[ids]
    known = column_of_id >= 0
    counts = np.zeros((len(rows), len(words)), np.float32)
    np.add.at(counts, (caption[known], column_of_id[known]), 1)
    return torch.from_numpy(counts / lengths[:, None].astype(np.float32)) * weights


def _compute_scale(a: Tensor, covariance: Tensor) -> Tensor:
    """Return the factor that gives the projected values unit variance, as after a layer norm."""
    return ((a * (covariance @ a)).sum() / a.shape[1]).clamp(min=1e-12).rsqrt()


def _set_linear(layer: torch.nn.Linear, a: Tensor, offset: Tensor) -> None:
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[: a.shape[1]] = a.T
    layer.bias[: a.shape[1]] = offset


def _set_vectors(table: torch.nn.Embedding, b: Tensor, words: Tensor, weights: Tensor) -> None:
    """Set each word's vector to its row of the map: their mean is then the map of the word frequencies."""
    table.weight.zero_()
    table.weight[words.to(b.device), : b.shape[1]] = b * weights[:, None].to(b.device)


def _set_pretrained(text: PretrainedEncoder, b: Tensor, offset: Tensor, words: tuple[Tensor, Tensor] | None) -> None:
    _set_linear(text.project, b[: text.width], offset)
    if text.words is not None and words is not None:
        _set_vectors(text.words, b[text.width :], *words)


def _set_bigru(text: BiGRU, b: Tensor, offset: Tensor, words: Tensor, weights: Tensor) -> None:
    assert text.skip is not None
    size = b.shape[1]
    _set_vectors(text.embedding, b, words, weights)
    text.skip.weight.zero_()
    text.skip.weight[range(size), range(size)] = 1
    text.skip.bias.zero_()
    text.skip.bias[:size] = offset
