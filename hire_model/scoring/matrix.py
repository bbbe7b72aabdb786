"""Compute the whole similarity matrix: encode each item once, then score pairs in blocks that fit a memory budget."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from hire_model.batch import EncodedImages, EncodedTexts, Tokens
from hire_model.data.loading import CaptionBank, collate_regions
from hire_model.data.schema import find_digest
from hire_model.data.store import Split
from hire_model.errors import DataError
from hire_model.model.fused import scoring as fused
from hire_model.model.hire import Hire
from hire_model.progress import show_progress
from hire_model.scoring.kept_scores import KeptScores
from hire_model.workers import THIS_PROCESS, Workers

log = logging.getLogger(__name__)
_ENCODE_BLOCK = 128
# Numbers in memory per pair, fragment and dimension while a pair is scored (measured, see benchmarks/).
_COPIES = 8
# A block that fits the CPU's cache is scored several times as fast per pair as a larger one.
_CACHE_BYTES = 24 << 20
# Images and captions in a block of the compiled kernel, which needs memory for the items but not for the pairs.
_KERNEL_ITEMS = 1024
_SAME_FEATURES = "Extract the regions as for the training data, or train a model on this data set."


def compute_similarity(
    model: Hire,
    split: Split,
    bank: CaptionBank,
    budget_bytes: int = 512 << 20,
    out: np.ndarray | None = None,
    workers: Workers = THIS_PROCESS,
    kept: KeptScores | None = None,
) -> np.ndarray:
    """Score each image of a split against each of its captions.

    Args:
        model: stays on its device and returns to its mode (training or evaluation).
        split: the N images.
        bank: the M captions.
        budget_bytes: maximum memory for a block of pairs.
        out: array [N, M] to fill, for example a memory map.
        workers: where captions are encoded and pairs are scored. Images are encoded here.
        kept: keeps finished blocks of a large matrix, and returns those of an interrupted call; None: nothing is kept.

    Returns:
        Scores [N, M] float32.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _fill_matrix(model, split, bank, budget_bytes, out, workers, kept)
    finally:
        model.train(was_training)


def map_predicates(known: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    """Return the index in `known`, the model's predicates, of each of `names`: -1 if unknown, None if both are equal.

    Logs a warning if a predicate is unknown.
    """
    mapping = _map_names(known, names)
    if mapping is not None and names and (mapping < 0).any():
        unknown = int((mapping < 0).sum())
        log.warning("The model has no entry for %d of %d predicates; their relations are ignored.", unknown, len(names))
    return mapping


def map_classes(known: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    """Return the index in `known`, the model's classes, of each of `names`: -1 if unknown, None if both are equal.

    Logs a warning if the model has classes and one of `names` is unknown. `known` is empty without model.class_vectors.
    """
    mapping = _map_names(known, names)
    if known and mapping is not None and names and (mapping < 0).any():
        unknown = int((mapping < 0).sum())
        log.warning("The model has no vector for %d of %d classes.", unknown, len(names))
    return mapping


def _map_names(known: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    if tuple(names) == tuple(known):
        return None
    index = {name: position for position, name in enumerate(known)}
    return np.array([index.get(name, -1) for name in names] or [-1], np.int64)


def encode_images(model: Hire, split: Split) -> EncodedImages:
    """Encode all images of a split, padded to the longest, on the model's device."""
    blocks, encoded = split_into_blocks(range(len(split.images))), None
    for block, rows in zip(
        encode_image_blocks(model, split, show_progress(blocks, "encode images")), blocks, strict=True
    ):
        if encoded is None:
            shape = (len(split.images), int(split.region_counts.max()))
            encoded = _allocate(shape, block)
        target, regions = slice(rows.start, rows.stop), block.mask.shape[1]  # a block is padded to its longest image
        encoded.regions[target, :regions], encoded.mask[target, :regions] = block.regions, block.mask
        encoded.summary[target] = block.summary
        if encoded.edges is not None and block.edges is not None:
            encoded.edges[target, :, :regions, :regions] = block.edges
        if encoded.shares is not None and block.shares is not None:
            encoded.shares[target, :regions] = block.shares
    assert encoded is not None
    return encoded


def map_names(model: Hire, split: Split) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return `map_predicates` and `map_classes` of the model and a split. Logs warnings for unknown names.

    Raises DataError if the features of the data set are not those that the model was trained on.
    """
    check_features(model, split)
    manifest = split.dataset.manifest
    return map_predicates(model.predicates, manifest.predicates), map_classes(model.classes, manifest.classes)


def encode_image_blocks(
    model: Hire,
    split: Split,
    blocks: Iterable[Sequence[int]],
    maps: tuple[np.ndarray | None, np.ndarray | None] | None = None,
) -> Iterator[EncodedImages]:
    """Encode the images of a split block by block, on the model's device.

    maps: from `map_names`, for a caller that calls this function more than once.
    """
    device, maps = _get_device(model), maps or map_names(model, split)
    for rows in blocks:
        yield model.encode_image(collate_regions([split.regions(i) for i in rows], *maps).to(device))


def check_features(model: Hire, split: Split) -> None:
    """Raise DataError if the features are of another size or extractor than the model was trained on.

    The name of an extractor of pictures ends with its digest, which must be equal. Other names are free text; a
    difference is a warning.
    """
    manifest, folder = split.dataset.manifest, split.dataset.folder
    theirs, ours = manifest.feature_extractor, model.feature_extractor
    if manifest.feature_dim != model.feature_dim:
        raise DataError(
            f"{folder}: the features have {manifest.feature_dim} numbers per region ({theirs}), but the model was "
            f"trained on {model.feature_dim}{f' ({ours})' if ours else ''}. {_SAME_FEATURES}"
        )
    if theirs == ours or not ours or "unknown" in (theirs, ours):
        return
    digests = find_digest(theirs), find_digest(ours)
    if all(digests):
        if digests[0] == digests[1]:  # a checkpoint in a folder of another name
            return
        raise DataError(
            f"{folder}: the features are by another extractor ({theirs}) than those that the model was trained on "
            f"({ours}). {_SAME_FEATURES}"
        )
    _warn_once(
        f"{folder}: the features are by '{theirs}'; the model was trained on features by '{ours}'. The figures mean "
        "something only if both name the same extractor."
    )


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def encode_text_blocks(model: Hire, bank: CaptionBank, blocks: Iterable[range | np.ndarray]) -> Iterator[EncodedTexts]:
    """Encode the captions of a bank block by block, on the model's device."""
    device = _get_device(model)
    for rows in blocks:
        yield model.encode_text(bank.tokens(rows).to(device))


def split_into_blocks(rows: range) -> list[range]:
    """Split `rows` into the blocks in which items are encoded."""
    return [
        range(start, min(start + _ENCODE_BLOCK, rows.stop)) for start in range(rows.start, rows.stop, _ENCODE_BLOCK)
    ]


def _allocate(shape: tuple[int, int], block: EncodedImages) -> EncodedImages:
    """Return zeros for all images, to fill block by block. Joining a list of blocks would take twice the memory."""
    return EncodedImages(
        block.regions.new_zeros(*shape, block.regions.shape[-1]),
        block.mask.new_zeros(shape),
        block.summary.new_zeros(shape[0], block.summary.shape[-1]),
        None if block.edges is None else block.edges.new_zeros(shape[0], block.edges.shape[1], shape[1], shape[1]),
        None if block.shares is None else block.shares.new_zeros(shape),
    )


def _fill_matrix(
    model: Hire, split: Split, bank: CaptionBank, budget_bytes: int, out: np.ndarray | None, workers: Workers,
    kept: KeptScores | None,
) -> np.ndarray:  # fmt: skip
    """Return the scores [N, M]. Captions are encoded by length, one block at a time.

    COCO's 25,000 encoded captions would take 5 GB at P = 1024.
    """
    if out is None:
        out = np.empty((len(split.images), len(bank)), np.float32)
    blocks = split_captions(bank)
    store = kept.open(model, split, bank, _ENCODE_BLOCK) if kept else None
    missing = store.fill(out, blocks) if store else range(len(blocks))
    if not missing:
        return out
    images = encode_images(model, split)
    if workers.parallel:
        model, images = copy_to_cpu(model), images.to(torch.device("cpu"))
    shards = ((number, bank.tokens(blocks[number])) for number in missing)
    done = workers.run(partial(_ImageScorer, model, images, budget_bytes), _ImageScorer.score, shards)
    for (number, _), scores in show_progress(done, "score pairs", len(missing)):
        out[:, blocks[number]] = scores
        if store:
            store.write(number, scores)
    return out


def split_captions(bank: CaptionBank) -> list[np.ndarray]:
    """Return the rows of a bank in blocks of captions of similar length."""
    order = np.argsort(bank.lengths, kind="stable")
    return np.split(order, range(_ENCODE_BLOCK, len(order), _ENCODE_BLOCK))


@dataclass(frozen=True)
class _ImageScorer:
    """Score captions against N encoded images."""

    model: Hire
    images: EncodedImages
    budget_bytes: int

    @torch.inference_mode()
    def score(self, shard: tuple[int, Tokens]) -> np.ndarray:
        """Return the scores [N, C] of C captions, given as (number of the block, tokens)."""
        texts = self.model.encode_text(shard[1].to(_get_device(self.model)))
        return score_matrix(self.model, self.images, texts, self.budget_bytes)


def copy_to_cpu(model: Hire) -> Hire:
    """Return the model, or a copy on the CPU if it is on another device: other machines may not have that device."""
    return model if _get_device(model).type == "cpu" else copy.deepcopy(model).cpu()


def score_matrix(model: Hire, images: EncodedImages, texts: EncodedTexts, budget_bytes: int) -> np.ndarray:
    """Score N encoded images against C encoded texts in blocks of at most `budget_bytes`; return [N, C] float32."""
    out = np.empty((len(images), len(texts)), np.float32)
    fragments = images.mask.shape[1] + texts.mask.shape[1]
    pair_bytes = 4 * _COPIES * fragments * images.regions.shape[-1]
    if images.regions.device.type == "cpu":
        budget_bytes = min(budget_bytes, _CACHE_BYTES)
    columns = max(1, min(len(texts), int((2 * budget_bytes / pair_bytes) ** 0.5)))
    rows = max(1, min(len(images), budget_bytes // (pair_bytes * columns)))
    if fused.can_score(model.interaction, images, texts):
        rows = columns = _KERNEL_ITEMS
    for left in range(0, len(texts), columns):
        block = texts[slice(left, left + columns)]
        for top in range(0, len(images), rows):
            scores = model.score(images[slice(top, top + rows)], block).total
            out[top : top + rows, left : left + columns] = scores.float().cpu().numpy()
    return out


def _get_device(model: Hire) -> torch.device:
    return next(model.parameters()).device
