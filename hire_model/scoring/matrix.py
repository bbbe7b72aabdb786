"""The whole similarity matrix: each item encoded once, pairs scored in blocks under a byte budget."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.errors import DataError
from hire_model.model.hire import Hire
from hire_model.progress import track

log = logging.getLogger(__name__)
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


def predicate_map(known: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    """The place in `known`, the model's predicates, of each of `names`, -1 for a new one; None if both are the same."""
    if tuple(names) == tuple(known):
        return None
    place = {name: index for index, name in enumerate(known)}
    mapping = np.array([place.get(name, -1) for name in names] or [-1], np.int64)
    if names and (mapping < 0).any():
        new = int((mapping < 0).sum())
        log.warning("%d of %d predicates are new to the model; their relations are left out.", new, len(names))
    return mapping


def encode_images(model: Hire, split: Split) -> EncodedImages:
    """All images of a split, encoded once, padded to the longest, on the model's device."""
    if split.dataset.manifest.feature_dim != model.feature_dim:
        raise DataError(
            f"{split.dataset.folder}: features of {split.dataset.manifest.feature_dim} numbers "
            f"({split.dataset.manifest.feature_extractor}), but the model was trained on {model.feature_dim}. "
            "Extract the regions as for the training data."
        )
    device, mapping = _device(model), predicate_map(model.predicates, split.dataset.manifest.predicates)
    encoded = None
    for rows in _progress(len(split.images), "encode images"):
        regions = collate_regions([split.regions(i) for i in rows], mapping)
        block = model.encode_image(regions.to(device))
        if encoded is None:
            shape = (len(split.images), int(split.region_counts.max()))
            encoded = EncodedImages(*_room(shape, block.regions, block.mask, block.summary))
        _fill(rows, (encoded.regions, block.regions), (encoded.mask, block.mask), (encoded.summary, block.summary))
    assert encoded is not None
    return encoded


def encode_texts(model: Hire, bank: CaptionBank) -> EncodedTexts:
    """All captions of a bank, encoded once, padded to the longest, on the model's device."""
    device, encoded = _device(model), None
    for rows in _progress(len(bank), "encode captions"):
        block = model.encode_text(bank.tokens(rows).to(device))
        if encoded is None:
            shape = (len(bank), int(bank.lengths.max()))
            encoded = EncodedTexts(*_room(shape, block.words, block.mask, block.summary))
        _fill(rows, (encoded.words, block.words), (encoded.mask, block.mask), (encoded.summary, block.summary))
    assert encoded is not None
    return encoded


def _room(shape: tuple[int, int], fragments: Tensor, mask: Tensor, summary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros for all items at once, filled block by block: a list of blocks to join would take twice the memory."""
    return (
        fragments.new_zeros(*shape, fragments.shape[-1]),
        mask.new_zeros(shape),
        summary.new_zeros(shape[0], summary.shape[-1]),
    )


def _fill(rows: range, *pairs: tuple[Tensor, Tensor]) -> None:
    for whole, block in pairs:
        whole[rows.start : rows.stop, : block.shape[1]] = block  # a block is padded to its own longest item


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


def _device(model: Hire) -> torch.device:
    return next(model.parameters()).device


def _progress(count: int, what: str) -> Iterator[range]:
    blocks = [range(start, min(start + _ENCODE_BLOCK, count)) for start in range(0, count, _ENCODE_BLOCK)]
    yield from track(blocks, what)
