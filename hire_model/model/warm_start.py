"""A closed-form start: the regularised canonical correlation of images and captions.

With few pictures, two linear maps learned by gradient fall behind the same two maps solved for (docs/results.md has the
figures). So both projections may begin at the solution, after Hotelling (1936) with ridges as in Vinod (1976), each
direction weighted by its correlation (Gong et al. 2014, section 3.4); the other stages begin as zero and learn what
linear maps cannot say.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.errors import SettingsError
from hire_model.model.hire import Hire
from hire_model.model.layers import masked_mean
from hire_model.model.text import BiGRU
from hire_model.settings import TrainSettings

WARM_STARTED = ("regions.project.", "text.project.", "text.embedding.", "text.skip.")  # what is set here
_BLOCK = 256
_MOST_WORDS = 4096  # the frequent ones; the matrix to decompose is this large, and rare words say little


@torch.no_grad()
def warm_start(model: Hire, train: Split, bank: CaptionBank, settings: TrainSettings) -> Tensor:
    """Set the model's two projections to the CCA of the training split; gives the correlations [at most D], falling.

    Images are described by the mean of their normalised features, captions by the mean of their encoder's states or,
    for the BiGRU, by how often each word stands in them, rare words weighing more. Raises SettingsError where the model
    has no linear path from input to embedding (model.residual=false).
    """
    if not model.settings.residual:
        raise SettingsError("train.warm_start needs model.residual=true: without it nothing linear remains to set.")
    images = _image_means(model, train)  # [N, F]
    if isinstance(model.text, BiGRU):
        words, weights = _frequent_words(bank, len(model.vocabulary))
        texts = _word_shares(bank, words) * weights  # [M, W]
        most = model.text.embedding.embedding_dim
    else:
        texts, most = _state_means(model, bank), model.settings.dim  # [M, H]
    centre_x, centre_y = images.mean(dim=0), texts.mean(dim=0)
    owner = torch.from_numpy(train.owner)
    counts = torch.bincount(owner, minlength=len(images)).clamp(min=1)[:, None]
    y = texts - centre_y
    y_of_image = torch.zeros(len(images), y.shape[1]).index_add(0, owner, y) / counts
    size = min(model.settings.dim, most, *images.shape[1:], *texts.shape[1:])
    ridges = settings.warm_image_ridge, settings.warm_text_ridge
    a, b, correlations = cca(images - centre_x, y, y_of_image, *ridges, size)
    _set_linear(model.regions.project, a, centre_x, images)
    if model.regions.position is not None:
        model.regions.position.weight.zero_()
    if isinstance(model.text, BiGRU) and model.text.skip is not None:
        _set_words(model.text, b, centre_y, words, weights, texts)
    else:
        _set_linear(model.text.project, b, centre_y, texts)  # type: ignore[union-attr,arg-type]
    return correlations


def cca(
    x: Tensor, y: Tensor, y_of_x: Tensor, ridge_x: float, ridge_y: float, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps a [F, size] and b [H, size] for centred x [N, F], y [M, H] and y_of_x [N, H], the mean y of each x.

    A ridge is given in units of the mean variance of its side.
    """
    root_x, root_y = _inverse_root(x.T @ x / len(x), ridge_x), _inverse_root(y.T @ y / len(y), ridge_y)
    left, correlations, right = torch.linalg.svd(root_x @ (x.T @ y_of_x / len(x)) @ root_y, full_matrices=False)
    correlations = correlations[:size]
    return root_x @ left[:, :size] * correlations, root_y @ right[:size].T * correlations, correlations


def _inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(covariance + ridge * scale * torch.eye(len(covariance)))
    return vectors * values.clamp(min=1e-12).rsqrt() @ vectors.T


def _image_means(model: Hire, split: Split) -> Tensor:
    means = []
    for start in range(0, len(split.images), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(split.images)))
        regions = collate_regions([split.regions(row) for row in rows])
        means.append(masked_mean(model.regions.normalised(regions.features), regions.mask))
    return torch.cat(means)


def _state_means(model: Hire, bank: CaptionBank) -> Tensor:
    means = []
    for start in range(0, len(bank), _BLOCK):
        tokens = bank.tokens(range(start, min(start + _BLOCK, len(bank))))
        states = model.text.states(tokens) if tokens.states is None else tokens.states  # type: ignore[union-attr,operator]
        means.append(masked_mean(states, tokens.mask))
    return torch.cat(means)


def _frequent_words(bank: CaptionBank, size: int) -> tuple[Tensor, Tensor]:
    """Ids [W] of the words in two captions or more, and the root of each one's inverse document frequency."""
    caption = np.repeat(np.arange(len(bank)), bank.lengths)
    found = np.unique(np.stack([caption, bank.ids]), axis=1)[1]
    documents = torch.from_numpy(np.bincount(found, minlength=size))
    words = documents.argsort(descending=True, stable=True)[:_MOST_WORDS]
    words = words[documents[words] >= 2]
    return words, torch.log(len(bank) / documents[words].float()).sqrt()


def _word_shares(bank: CaptionBank, words: Tensor) -> Tensor:
    """[M, W], the share of each caption's word pieces that each of `words` makes up."""
    column = np.full(int(max(bank.ids.max(), words.max())) + 1, -1)
    column[words.numpy()] = np.arange(len(words))
    caption, place = np.repeat(np.arange(len(bank)), bank.lengths), column[bank.ids]
    shares = torch.zeros(len(bank), len(words))
    inside = torch.from_numpy(place >= 0)
    index = torch.from_numpy(caption)[inside], torch.from_numpy(place)[inside]
    shares.index_put_(index, torch.ones(int(inside.sum())), accumulate=True)
    return shares / torch.from_numpy(bank.lengths)[:, None]


def _scale(a: Tensor, centre: Tensor, rows: Tensor) -> Tensor:
    """What makes the projected rows have numbers of about 1, as after a layer norm."""
    return 1 / ((rows - centre) @ a).square().mean().sqrt().clamp(min=1e-6)


def _set_linear(layer: torch.nn.Linear, a: Tensor, centre: Tensor, rows: Tensor) -> None:
    a = a * _scale(a, centre, rows)
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[: a.shape[1]] = a.T
    layer.bias[: a.shape[1]] = -centre @ a


def _set_words(text: BiGRU, b: Tensor, centre: Tensor, words: Tensor, weights: Tensor, rows: Tensor) -> None:
    """Each word's embedding becomes its row of the map, so that their mean is the map of the word shares."""
    assert text.skip is not None
    b = b * _scale(b, centre, rows)
    size = b.shape[1]
    text.embedding.weight.zero_()
    text.embedding.weight[words, :size] = b * weights[:, None]
    text.skip.weight.zero_()
    text.skip.weight[range(size), range(size)] = 1
    text.skip.bias.zero_()
    text.skip.bias[:size] = -centre @ b
