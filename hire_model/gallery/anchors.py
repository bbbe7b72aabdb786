"""Anchors: captions whose exact scores describe an image, so that a shortlist agrees with the pair score.

The vectors of the global head contain no relations, so the shortlist of a model that matches relations misses images.
Here an image's vector is an affine map of its exact scores with A captions, the anchors (CUR decomposition: Yadav et
al. 2022). A query's vector is an affine map of moments of its encoded words, so a query costs no scores. The product of
both is near the pair score, up to a constant of the query. Both maps have a closed form: docs/experiments/search.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.loading import CaptionBank
from hire_model.data.store import Split
from hire_model.errors import DataError
from hire_model.files import atomic_write
from hire_model.model.hire import Hire
from hire_model.progress import show_progress
from hire_model.scoring.matrix import encode_image_blocks, encode_text_blocks, score_matrix, split_into_blocks

ANCHORS = 1000  # pairs that an image costs once
NUMBERS = 256  # of a vector
_CAPTIONS, _IMAGES = 3000, 1000  # whose scores the maps are made of
_LEAST = 100  # captions
_WORD_SIZE, _ROLE_SIZE = 16, 32  # numbers of a word and of its roles whose products are described
_RIDGE = 2e-3  # in mean variances
_BUDGET = 512 << 20
_BLOCK = 128


@dataclass(frozen=True)
class Anchors:
    """Anchor captions, and the maps that make vectors of D numbers.

    Attributes:
        captions: the A anchors.
        words: [P, w] projection of a word.
        roles: [2Kd, r] projection of a word's roles, or [P, r] of the word if the model has no roles.
        text_map, text_bias: [f, D] and [D], from a caption's moments to its vector.
        image_map, image_bias: [A, D] and [D], from an image's scores to its vector.
    """

    captions: tuple[str, ...]
    words: Tensor
    roles: Tensor
    text_map: Tensor
    text_bias: Tensor
    image_map: Tensor
    image_bias: Tensor

    @property
    def dim(self) -> int:
        """D."""
        return self.image_bias.shape[0]

    def describe(self) -> str:
        """Describe the shortlist for people."""
        return f"{len(self.captions):,} anchor captions, {self.dim} numbers per image"

    def embed_texts(self, texts: EncodedTexts) -> Tensor:
        """Return the vectors [C, D] of encoded texts, float32 on the CPU."""
        moments = torch.cat(_compute_moments(texts.to("cpu"), self.words, self.roles), dim=1)
        return moments @ self.text_map + self.text_bias

    def make_embedder(self, model: Hire) -> Callable[[EncodedImages], Tensor]:
        """Encode the anchors with `model`; return a function that makes the vectors [B, D] of encoded images."""
        anchors = encode_captions(model, self.captions)

        @torch.inference_mode()
        def embed(images: EncodedImages) -> Tensor:
            scores = torch.from_numpy(score_matrix(model, images, anchors, _BUDGET))
            return scores @ self.image_map + self.image_bias

        return embed

    def save(self, path: Path) -> None:
        """Write the anchors to a safetensors file."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        with atomic_write(path) as partial:
            save_file(tensors, partial, {"captions": json.dumps(self.captions)})

    @classmethod
    def load(cls, path: Path) -> Anchors:
        """Read the anchors from a file of a gallery, whose digest the caller has checked."""
        with safe_open(path, "pt") as file:
            captions = json.loads(file.metadata()["captions"])
            return cls(tuple(captions), *(file.get_tensor(name) for name in _TENSORS))


_TENSORS = tuple(field.name for field in fields(Anchors))[1:]


@torch.inference_mode()
def encode_sample(model: Hire, split: Split) -> EncodedImages:
    """Encode the images of `split` that the maps are made of: 1,000 random ones."""
    rows = np.sort(np.random.default_rng(0).permutation(len(split.images))[:_IMAGES]).tolist()
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    return EncodedImages.concatenate(list(encode_image_blocks(model, split, blocks)))


@torch.inference_mode()
def fit_anchors(model: Hire, images: EncodedImages, captions: Sequence[str]) -> Anchors:
    """Take the first captions as anchors, and compute the maps from the scores of a sample of captions and images.

    Args:
        model: scores the sample.
        images: a sample of the gallery's images.
        captions: from `draw_captions`, sentences like those of the queries. They can describe other images.

    Raises:
        DataError: if all images have the same scores.
    """
    texts = encode_captions(model, captions)
    blocks = show_progress(split_into_blocks(range(len(captions))), "score a sample for the anchors")
    scores = [score_matrix(model, images, texts[slice(block.start, block.stop)], _BUDGET) for block in blocks]
    return solve_maps(captions, texts.to("cpu"), np.concatenate(scores, axis=1).astype(np.float64))


def hash_captions(captions: Sequence[str] | None) -> str:
    """Return the SHA-256 of captions to choose anchors from, "none" for None."""
    return "none" if captions is None else hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()


def draw_captions(captions: Sequence[str]) -> list[str]:
    """Return up to 3,000 random ones of `captions`, each once. Raises DataError if there are too few."""
    known = list(dict.fromkeys(captions))
    if len(known) < _LEAST:
        raise DataError(
            f"Anchors are made of at least {_LEAST} different captions, and there are {len(known)}. Name a data set "
            "with captions, such as that of the training."
        )
    return [known[row] for row in np.random.default_rng(0).permutation(len(known))[:_CAPTIONS]]


@torch.inference_mode()
def encode_captions(model: Hire, captions: Sequence[str]) -> EncodedTexts:
    """Encode captions on the model's device."""
    bank = CaptionBank.from_lists(model.vocabulary.encode(captions))
    return EncodedTexts.concatenate(list(encode_text_blocks(model, bank, split_into_blocks(range(len(bank))))))


def solve_maps(
    captions: Sequence[str], texts: EncodedTexts, scores: np.ndarray, count: int = ANCHORS, dim: int = NUMBERS
) -> Anchors:
    """Compute both maps. The first captions are the anchors.

    An image's vector contains the principal components of its scores with the anchors. They are uncorrelated, so the
    best vector of a caption has a closed form. Ridge regression maps moments of the caption to it.

    Args:
        captions: C captions.
        texts: the same, encoded.
        scores: [N, C] float64, of N images.
        count: number of anchors, A.
        dim: at most so many numbers.
    """
    anchors = scores[:, :count]
    mean = anchors.mean(axis=0)
    variances, directions = np.linalg.eigh((anchors - mean).T @ (anchors - mean) / len(scores))
    strongest = np.argsort(-variances)[:dim]
    strongest = strongest[variances[strongest] > 1e-9 * variances.max()]
    if not len(strongest):
        raise DataError(
            f"All {len(scores)} images of the sample have the same scores with the anchors, so they cannot be told "
            "apart by anchors. Build the gallery without anchors."
        )
    image_map = directions[:, strongest]
    targets = scores.T @ ((anchors - mean) @ image_map) / (len(scores) * variances[strongest])
    words = _find_directions(texts.words[texts.mask], _WORD_SIZE)
    roles = _find_directions(_get_roles(texts)[texts.mask], _ROLE_SIZE)
    moments = _compute_moments(texts, words, roles)
    text_map, text_bias = _fit_ridge([part.double().numpy() for part in moments], targets)
    arrays = (text_map, text_bias, image_map, -mean @ image_map)
    return Anchors(tuple(captions[:count]), words, roles, *(torch.from_numpy(array).float() for array in arrays))


def _get_roles(texts: EncodedTexts) -> Tensor:
    return texts.words if texts.roles is None else texts.roles


def _find_directions(x: Tensor, count: int) -> Tensor:
    """Return the `count` strongest directions [size, count] of vectors [n, size]."""
    return torch.linalg.eigh(x.T.double() @ x.double())[1].flip(1)[:, :count].float()


def _compute_moments(texts: EncodedTexts, words: Tensor, roles: Tensor) -> list[Tensor]:
    """Return per caption: summary, mean word, mean roles, mean products of both, and products of the mean roles."""
    mask = texts.mask[..., None].float()
    share = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    related = _get_roles(texts)
    mean_word, mean_roles = (texts.words * share).sum(dim=1), (related * share).sum(dim=1)
    products = ((related * share) @ roles).transpose(1, 2) @ (texts.words @ words)
    strongest = mean_roles @ roles
    squares = strongest[:, :, None] * strongest[:, None]
    return [texts.summary, mean_word, mean_roles, products.flatten(1), squares.flatten(1)]


def _fit_ridge(parts: Sequence[np.ndarray], targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the map [f, D] and bias [D] from the columns of `parts` to targets [C, D]. All parts count the same."""
    x = np.hstack(parts)
    mean = x.mean(axis=0)
    sizes = [np.sqrt(((part - part.mean(axis=0)) ** 2).sum(axis=1).mean()) for part in parts]
    scale = np.repeat([1 / max(size, 1e-12) for size in sizes], [part.shape[1] for part in parts])
    centred = (x - mean) * scale
    gram = centred.T @ centred
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    solved = np.linalg.solve(gram, centred.T @ (targets - targets.mean(axis=0))) * scale[:, None]
    return solved, targets.mean(axis=0) - mean @ solved
