"""A closed-form start: the regularised canonical correlation of images and captions.

With few pictures, two linear maps learned by gradient fall behind the same two maps solved for (docs/results.md has the
figures). So both projections may begin at the solution, after Hotelling (1936) with ridges as in Vinod (1976), each
direction weighted by its correlation (Gong et al. 2014, section 3.4); the other stages begin as zero and learn what
linear maps cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.model.hire import Hire
from hire_model.model.layers import masked_mean
from hire_model.model.text import BiGRU, Pretrained
from hire_model.progress import show_progress
from hire_model.settings import TrainSettings

WARM_STARTED = ("regions.project.", "text.project.", "text.words.", "text.embedding.", "text.skip.")  # what is set here
_BLOCK = 256
_MOST_WORDS = 4096  # the frequent ones; the matrix to decompose is this large, and rare words say little


@torch.no_grad()
def warm_start(model: Hire, train: Split, bank: CaptionBank, settings: TrainSettings) -> Tensor:
    """Set the model's two projections to the CCA of the training split; gives the correlations [at most D], falling.

    Images are described by the mean of their normalised features. Captions are described by the mean of a pretrained
    encoder's states, by how often each word stands in them, rare words weighing more, or by both, each of the same
    variance (text.lexical); for the BiGRU by the words alone. Captions are read in blocks and only their moments are
    kept. The model must have the residual form (model.residual), which `Settings` checks: it has the linear paths to
    set.
    """
    device = next(model.parameters()).device
    x = _average_regions(model, train, device)  # [N, F]
    centre = x.mean(dim=0)
    x -= centre
    lexical = isinstance(model.text, BiGRU) or model.text.words is not None
    words = _find_frequent_words(bank, len(model.vocabulary)) if lexical else None
    texts = _compute_text_moments(model, bank, words, x, torch.from_numpy(train.owner).to(device))
    if isinstance(model.text, Pretrained):
        texts = texts.balance(model.text.width)
    most = model.text.embedding.embedding_dim if isinstance(model.text, BiGRU) else model.settings.dim
    size = min(model.settings.dim, most, x.shape[1], len(texts.mean))
    ridges = settings.warm_image_ridge, settings.warm_text_ridge
    covariance = x.T @ x / len(x)
    a, b, correlations = cca(covariance, texts.covariance, texts.cross, *ridges, size)
    a, b = a * _compute_scale(a, covariance), b * _compute_scale(b, texts.covariance)
    _set_linear(model.regions.project, a, -centre @ a)
    if model.regions.position is not None:
        model.regions.position.weight.zero_()
    b, offset = b * texts.scale[:, None], -texts.mean @ b
    if isinstance(model.text, BiGRU):
        assert words is not None
        _set_words(model.text, b, offset, *words)
    else:
        _set_states(model.text, b, offset, words)
    return correlations


def cca(
    covariance_x: Tensor, covariance_y: Tensor, cross: Tensor, ridge_x: float, ridge_y: float, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps a [F, size] and b [H, size] and their correlations [size], from covariances [F, F], [H, H] and [F, H].

    A ridge is given in units of the mean variance of its side.
    """
    root_x, root_y = _invert_root(covariance_x, ridge_x), _invert_root(covariance_y, ridge_y)
    left, correlations, right = torch.linalg.svd(root_x @ cross @ root_y, full_matrices=False)
    correlations = correlations[:size]
    return root_x @ left[:, :size] * correlations, root_y @ right[:size].T * correlations, correlations


def _invert_root(covariance: Tensor, ridge: float) -> Tensor:
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(covariance + ridge * scale * torch.eye(len(covariance)).to(covariance))
    return vectors * values.clamp(min=1e-12).rsqrt() @ vectors.T


def _average_regions(model: Hire, split: Split, device: torch.device) -> Tensor:
    means = torch.empty(len(split.images), model.feature_dim, device=device)
    for start in show_progress(range(0, len(means), _BLOCK), "closed-form start, images"):
        rows = range(start, min(start + _BLOCK, len(means)))
        regions = collate_regions([split.regions(row) for row in rows]).to(device)
        means[rows.start : rows.stop] = masked_mean(model.regions.normalize(regions.features), regions.mask)
    return means


@dataclass(frozen=True)
class _Moments:
    """Of M captions' descriptions y: mean [H], covariance [H, H], and with their images' centred x, cross [F, H].

    scale [H]: what y was multiplied by
    """

    mean: Tensor
    covariance: Tensor
    cross: Tensor
    scale: Tensor

    def balance(self, first: int) -> _Moments:
        """The same of descriptions whose numbers after the `first` have as much variance in all as these."""
        variance, scale = self.covariance.diagonal(), self.scale.clone()
        scale[first:] *= (variance[:first].sum() / variance[first:].sum().clamp(min=1e-12)).sqrt()
        return _Moments(self.mean * scale, self.covariance * scale[:, None] * scale, self.cross * scale, scale)


def _compute_text_moments(
    model: Hire, bank: CaptionBank, words: tuple[Tensor, Tensor] | None, x: Tensor, owner: Tensor
) -> _Moments:
    """Every image weighs the same in `cross`, however many captions it has."""
    captions = torch.bincount(owner, minlength=len(x))
    total, square, cross, sums = (torch.zeros((), device=x.device) for _ in range(4))
    for start in show_progress(range(0, len(bank), _BLOCK), "closed-form start, captions"):
        rows = range(start, min(start + _BLOCK, len(bank)))
        y = _describe_captions(model, bank, rows, words, x.device)
        owners = owner[rows.start : rows.stop]
        own = x[owners] / captions[owners, None]
        total, square, cross, sums = total + y.sum(dim=0), square + y.T @ y, cross + own.T @ y, sums + own.sum(dim=0)
    mean = total / len(bank)
    covariance = square / len(bank) - mean[:, None] * mean
    return _Moments(mean, covariance, (cross - sums[:, None] * mean) / len(x), torch.ones_like(mean))


def _describe_captions(
    model: Hire, bank: CaptionBank, rows: range, words: tuple[Tensor, Tensor] | None, device: torch.device
) -> Tensor:
    """[rows, H], the captions' mean states and then their word shares, as far as the text encoder has either."""
    parts = [_average_states(model, bank, rows, device)] if isinstance(model.text, Pretrained) else []
    if words is not None:
        parts.append(_weigh_words(bank, rows, *words).to(device))
    return torch.cat(parts, dim=1)


def _average_states(model: Hire, bank: CaptionBank, rows: range, device: torch.device) -> Tensor:
    assert isinstance(model.text, Pretrained)
    tokens = bank.tokens(rows).to(device)
    return masked_mean(model.text.encode(tokens) if tokens.states is None else tokens.states, tokens.mask)


def _find_frequent_words(bank: CaptionBank, size: int) -> tuple[Tensor, Tensor]:
    """Ids [W] of the words in two captions or more, and the root of each one's inverse document frequency."""
    caption = np.repeat(np.arange(len(bank)), bank.lengths)
    found = np.unique(caption * size + bank.ids) % size
    documents = torch.from_numpy(np.bincount(found, minlength=size))
    words = documents.argsort(descending=True, stable=True)[:_MOST_WORDS]
    words = words[documents[words] >= 2]
    return words, torch.log(len(bank) / documents[words].float()).sqrt()


def _weigh_words(bank: CaptionBank, rows: range, words: Tensor, weights: Tensor) -> Tensor:
    """[rows, W], the share of each caption's word pieces that each of `words` makes up, times the word's weight."""
    lengths, ids = bank.lengths[rows.start : rows.stop], bank.ids[bank.offsets[rows.start] : bank.offsets[rows.stop]]
    column = np.full(int(max(ids.max(), words.max())) + 1, -1)
    column[words.numpy()] = np.arange(len(words))
    caption, place = np.repeat(np.arange(len(rows)), lengths), column[ids]
    inside = place >= 0
    shares = np.zeros((len(rows), len(words)), np.float32)
    np.add.at(shares, (caption[inside], place[inside]), 1)
    return torch.from_numpy(shares / lengths[:, None].astype(np.float32)) * weights


def _compute_scale(a: Tensor, covariance: Tensor) -> Tensor:
    """What makes the projected rows have numbers of about 1, as after a layer norm."""
    return ((a * (covariance @ a)).sum() / a.shape[1]).clamp(min=1e-12).rsqrt()


def _set_linear(layer: torch.nn.Linear, a: Tensor, offset: Tensor) -> None:
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[: a.shape[1]] = a.T
    layer.bias[: a.shape[1]] = offset


def _set_vectors(table: torch.nn.Embedding, b: Tensor, words: Tensor, weights: Tensor) -> None:
    """Each word's vector becomes its row of the map, so that their mean is the map of the word shares."""
    table.weight.zero_()
    table.weight[words.to(b.device), : b.shape[1]] = b * weights[:, None].to(b.device)


def _set_states(text: Pretrained, b: Tensor, offset: Tensor, words: tuple[Tensor, Tensor] | None) -> None:
    _set_linear(text.project, b[: text.width], offset)
    if text.words is not None and words is not None:
        _set_vectors(text.words, b[text.width :], *words)


def _set_words(text: BiGRU, b: Tensor, offset: Tensor, words: Tensor, weights: Tensor) -> None:
    assert text.skip is not None
    size = b.shape[1]
    _set_vectors(text.embedding, b, words, weights)
    text.skip.weight.zero_()
    text.skip.weight[range(size), range(size)] = 1
    text.skip.bias.zero_()
    text.skip.bias[:size] = offset
