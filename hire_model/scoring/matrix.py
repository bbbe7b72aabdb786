"""The whole similarity matrix: each item encoded once, pairs scored in blocks under a byte budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.errors import DataError
from hire_model.model.hire import Hire
from hire_model.progress import track

_ENCODE_BLOCK = 128
# A pair keeps about so many numbers per fragment and dimension alive while it is scored (measured; see benchmarks/).
_COPIES = 8
# A block that fits a CPU's cache scores several times as many pairs a second as one that does not.
_CACHE_BYTES = 24 << 20


def similarity(
    model: Hire, split: Split, bank: CaptionBank, budget_bytes: int = 512 << 20, out: np.ndarray | None = None
) -> np.ndarray:
    """Scores [N, M] float32 of each image of `split` against each of its captions, in `bank`.

    budget_bytes: memory that a block of pairs may take; `out` may be a memory map to fill. The model's mode and device
    stay as they are afterwards.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            images, texts = encode_images(model, split), encode_texts(model, bank)
            return score_matrix(model, images, texts, budget_bytes, out)
    finally:
        model.train(was_training)


def predicate_map(model: Hire, split: Split) -> np.ndarray | None:
    """The model's index of each predicate of the data set, -1 where it knows none; None if the lists are the same."""
    names = split.dataset.manifest.predicates
    if names == model.predicates:
        return None
    known = {name: index for index, name in enumerate(model.predicates)}
    return np.array([known.get(name, -1) for name in names] or [-1], np.int64)


def encode_images(model: Hire, split: Split) -> EncodedImages:
    """All images of a split, encoded once, padded to the longest, on the model's device."""
    if split.dataset.manifest.feature_dim != model.feature_dim:
        raise DataError(
            f"{split.dataset.folder}: features of {split.dataset.manifest.feature_dim} numbers "
            f"({split.dataset.manifest.feature_extractor}), but the model was trained on {model.feature_dim}. "
            "Extract the regions as for the training data."
        )
    device, mapping = _device(model), predicate_map(model, split)
    blocks = []
    for rows in _progress(len(split.images), "encode images"):
        regions = collate_regions([split.regions(i) for i in rows], mapping)
        blocks.append(model.encode_image(regions.to(device)))
    longest = max(block.mask.shape[1] for block in blocks)
    return EncodedImages(
        torch.cat([_padded(block.regions, longest) for block in blocks]),
        torch.cat([_padded(block.mask, longest) for block in blocks]),
        torch.cat([block.summary for block in blocks]),
    )


def encode_texts(model: Hire, bank: CaptionBank) -> EncodedTexts:
    """All captions of a bank, encoded once, padded to the longest, on the model's device."""
    device = _device(model)
    blocks = [model.encode_text(bank.tokens(rows).to(device)) for rows in _progress(len(bank), "encode captions")]
    longest = max(block.mask.shape[1] for block in blocks)
    return EncodedTexts(
        torch.cat([_padded(block.words, longest) for block in blocks]),
        torch.cat([_padded(block.mask, longest) for block in blocks]),
        torch.cat([block.summary for block in blocks]),
    )


def score_matrix(
    model: Hire, images: EncodedImages, texts: EncodedTexts, budget_bytes: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Scores [N, M] of encoded items. Captions go in order of length: short ones are not padded to the longest."""
    if out is None:
        out = np.empty((len(images), len(texts)), np.float32)
    fragments = images.mask.shape[1] + texts.mask.shape[1]
    pair_bytes = 4 * _COPIES * fragments * images.regions.shape[-1]
    if images.regions.device.type == "cpu":
        budget_bytes = min(budget_bytes, _CACHE_BYTES)
    columns = max(1, min(len(texts), int((2 * budget_bytes / pair_bytes) ** 0.5)))
    rows = max(1, min(len(images), budget_bytes // (pair_bytes * columns)))
    lengths = texts.mask.sum(dim=1)
    order = torch.argsort(lengths, stable=True)
    for chosen in track(order.split(columns), "score pairs"):
        block = _trimmed(texts[chosen], int(lengths[chosen].max()))
        places = chosen.cpu().numpy()
        for start in range(0, len(images), rows):
            scores = model.score(images[slice(start, start + rows)], block).total
            out[start : start + rows, places] = scores.float().cpu().numpy()
    return out


def _trimmed(texts: EncodedTexts, length: int) -> EncodedTexts:
    return dataclasses.replace(texts, words=texts.words[:, :length], mask=texts.mask[:, :length])


def _padded(x: Tensor, length: int) -> Tensor:
    """x [n, m, ...] with zero rows up to [n, length, ...]."""
    missing = length - x.shape[1]
    return torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1) if missing else x


def _device(model: Hire) -> torch.device:
    return next(model.parameters()).device


def _progress(count: int, what: str) -> Iterator[range]:
    blocks = [range(start, min(start + _ENCODE_BLOCK, count)) for start in range(0, count, _ENCODE_BLOCK)]
    yield from track(blocks, what)
