"""The whole similarity matrix: each item encoded once, pairs scored in blocks under a byte budget."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.store import Split
from hire_model.errors import DataError
from hire_model.model.hire import Hire
from hire_model.progress import show_progress

log = logging.getLogger(__name__)
_ENCODE_BLOCK = 128
# A pair keeps about so many numbers per fragment and dimension alive while it is scored (measured; see benchmarks/).
_COPIES = 8
# A block that fits a CPU's cache scores several times as many pairs a second as one that does not.
_CACHE_BYTES = 24 << 20


def compute_similarity(
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
            return _fill_matrix(model, encode_images(model, split), bank, budget_bytes, out)
    finally:
        model.train(was_training)


def map_predicates(known: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
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
    blocks, encoded = split_into_blocks(range(len(split.images))), None
    for block, rows in zip(
        encode_image_blocks(model, split, show_progress(blocks, "encode images")), blocks, strict=True
    ):
        if encoded is None:
            shape = (len(split.images), int(split.region_counts.max()))
            encoded = _allocate(shape, block)
        some, regions = slice(rows.start, rows.stop), block.mask.shape[1]  # a block is padded to its own longest image
        encoded.regions[some, :regions], encoded.mask[some, :regions] = block.regions, block.mask
        encoded.summary[some] = block.summary
        if encoded.edges is not None and block.edges is not None:
            encoded.edges[some, :, :regions, :regions] = block.edges
    assert encoded is not None
    return encoded


def encode_image_blocks(model: Hire, split: Split, blocks: Iterable[range]) -> Iterator[EncodedImages]:
    """The split's images, encoded one of `blocks` after the other on the model's device.

    Raises DataError where the data set's features are not of the size that the model takes.
    """
    manifest = split.dataset.manifest
    if manifest.feature_dim != model.feature_dim:
        raise DataError(
            f"{split.dataset.folder}: features of {manifest.feature_dim} numbers ({manifest.feature_extractor}), but "
            f"the model was trained on {model.feature_dim}. Extract the regions as for the training data."
        )
    device, mapping = _get_device(model), map_predicates(model.predicates, manifest.predicates)
    for rows in blocks:
        yield model.encode_image(collate_regions([split.regions(i) for i in rows], mapping).to(device))


def encode_text_blocks(model: Hire, bank: CaptionBank, blocks: Iterable[range | np.ndarray]) -> Iterator[EncodedTexts]:
    """The bank's captions, encoded one of `blocks` after the other on the model's device."""
    device = _get_device(model)
    for rows in blocks:
        yield model.encode_text(bank.tokens(rows).to(device))


def split_into_blocks(rows: range) -> list[range]:
    """`rows` in the blocks in which items are encoded."""
    return [
        range(start, min(start + _ENCODE_BLOCK, rows.stop)) for start in range(rows.start, rows.stop, _ENCODE_BLOCK)
    ]


def _allocate(shape: tuple[int, int], block: EncodedImages) -> EncodedImages:
    """Zeros for all images at once, filled block by block: a list of blocks to join would take twice the memory."""
    return EncodedImages(
        block.regions.new_zeros(*shape, block.regions.shape[-1]),
        block.mask.new_zeros(shape),
        block.summary.new_zeros(shape[0], block.summary.shape[-1]),
        None if block.edges is None else block.edges.new_zeros(shape[0], block.edges.shape[1], shape[1], shape[1]),
    )


def _fill_matrix(
    model: Hire, images: EncodedImages, bank: CaptionBank, budget_bytes: int, out: np.ndarray | None
) -> np.ndarray:
    """Scores [N, M]; captions go in order of length, and only some are held: COCO's 25,000 take 5 GB at P = 1024."""
    if out is None:
        out = np.empty((len(images), len(bank)), np.float32)
    order = np.argsort(bank.lengths, kind="stable")
    blocks = np.split(order, range(_ENCODE_BLOCK, len(order), _ENCODE_BLOCK))
    for texts, rows in zip(encode_text_blocks(model, bank, show_progress(blocks, "score pairs")), blocks, strict=True):
        out[:, rows] = score_matrix(model, images, texts, budget_bytes)
    return out


def score_matrix(model: Hire, images: EncodedImages, texts: EncodedTexts, budget_bytes: int) -> np.ndarray:
    """Scores [N, C] float32 of encoded items, in blocks."""
    out = np.empty((len(images), len(texts)), np.float32)
    fragments = images.mask.shape[1] + texts.mask.shape[1]
    one = 4 * _COPIES * fragments * images.regions.shape[-1]  # bytes of a pair
    if images.regions.device.type == "cpu":
        budget_bytes = min(budget_bytes, _CACHE_BYTES)
    columns = max(1, min(len(texts), int((2 * budget_bytes / one) ** 0.5)))
    rows = max(1, min(len(images), budget_bytes // (one * columns)))
    for left in range(0, len(texts), columns):
        block = texts[slice(left, left + columns)]
        for top in range(0, len(images), rows):
            scores = model.score(images[slice(top, top + rows)], block).total
            out[top : top + rows, left : left + columns] = scores.float().cpu().numpy()
    return out


def _get_device(model: Hire) -> torch.device:
    return next(model.parameters()).device
