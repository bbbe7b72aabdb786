"""Pairs of items that were encoded one by one, scored in blocks of like size, so that little of a block is padding.

Joined all at once, one image of 100 regions among 4,096 pairs of 36 made every pair cost as much as its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hire_model.batch import EncodedImages, EncodedTexts
from hire_model.scoring.scorer import Scorer, distinct

_PAIRS = 256  # of a block at most
_FRAGMENTS = 16_384  # regions and words of a block at most, padding counted: larger tensors cost more than they bring
_STEP = 16  # by so much may two images, or two texts, of a block differ in size
_FEW = 64  # so many pairs are one block whatever their sizes: a block, and to look for blocks, has a cost of its own


def score_pairs(
    scorer: Scorer,
    images: Sequence[EncodedImages],
    texts: Sequence[EncodedTexts],
    image_index: np.ndarray,
    text_index: np.ndarray,
) -> np.ndarray:
    """Scores [K] float32 of the pairs (image_index[k], text_index[k]) of items that hold one image, or text, each.

    The same object at several places of a list is joined once.
    """
    images, image_place = distinct(images, id)
    texts, text_place = distinct(texts, id)
    image_index, text_index = image_place[image_index], text_place[text_index]
    if 0 < len(image_index) <= _FEW:
        return scorer.score(EncodedImages.concatenate(images), EncodedTexts.concatenate(texts), image_index, text_index)
    scores = np.empty(len(image_index), np.float32)
    for rows in _blocks(_sizes(images)[image_index], _sizes(texts)[text_index], image_index):
        own_images, image = np.unique(image_index[rows], return_inverse=True)
        own_texts, text = np.unique(text_index[rows], return_inverse=True)
        own = EncodedImages.concatenate([images[i] for i in own_images])
        scores[rows] = scorer.score(own, EncodedTexts.concatenate([texts[i] for i in own_texts]), image, text)
    return scores


def _blocks(regions: np.ndarray, words: np.ndarray, image_index: np.ndarray) -> Iterator[np.ndarray]:
    """All pairs, given the sizes [K] of their items, in blocks; within a block the pairs of an image come together."""
    order = np.lexsort((image_index, words // _STEP, regions // _STEP))
    kinds = np.stack([regions // _STEP, words // _STEP])[:, order]
    for group in np.split(order, np.flatnonzero((np.diff(kinds) != 0).any(axis=0)) + 1):
        if len(group):
            size = max(1, min(_PAIRS, _FRAGMENTS // int(regions[group].max() + words[group].max())))
            yield from np.split(group, range(size, len(group), size))


def _sizes(items: Sequence[EncodedImages] | Sequence[EncodedTexts]) -> np.ndarray:
    return np.array([item.mask.shape[1] for item in items], np.int64)
