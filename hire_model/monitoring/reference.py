"""The reference: the measurements of a journal, made on a sample of the data set that the model learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hire_model.data.store import Split
from hire_model.monitoring.journal import Line, measure_picture, measure_text
from hire_model.progress import show_progress
from hire_model.scoring.scorer import Scorer
from hire_model.service.parsing import RequestImage

MAX_SAMPLES = 2000
"""Most images that are measured, and most captions that are scored."""
_BLOCK = 128


@dataclass(frozen=True)
class Reference:
    """The measurements of a data set.

    lines     an image of the training split with one of its captions each, without scores
    matching  [n] scores of captions of the held-out split with their own image
    other     [m] scores of the same with the image of another
    images    how many images the held-out captions have in all
    """

    lines: list[Line]
    matching: np.ndarray
    other: np.ndarray
    images: int


def build_reference(scorer: Scorer, train: Split, held_out: Split, seed: int = 0) -> Reference:
    """Sample both splits, with one block of images in memory at a time.

    The scores are from `held_out`, as a model scores its training pairs higher than any later pair.
    Raises DataError where the data do not fit the model.
    """
    rng = np.random.default_rng(seed)
    matching, other = [], []
    captions = rng.permutation(len(held_out.captions))[:MAX_SAMPLES]
    for start in show_progress(range(0, len(captions), _BLOCK), "score held-out pairs"):
        block = captions[start : start + _BLOCK]
        images, texts = held_out.owner[block], [held_out.texts[row] for row in block]
        regions = {image: held_out.regions(image) for image in set(images.tolist())}
        foreign = np.flatnonzero(images != np.roll(images, 1))  # pairs with the caption before, of another image
        pairs = [(regions[image], text) for image, text in zip(images.tolist(), texts, strict=True)]
        pairs += [(regions[int(images[row])], texts[row - 1]) for row in foreign]
        scores = scorer.predict(pairs)
        matching.append(scores[: len(block)])
        other.append(scores[len(block) :])
    return Reference(
        _measure_images(scorer, train, rng),
        np.concatenate(matching),
        np.concatenate(other),
        len(np.unique(held_out.owner[captions])),
    )


def _measure_images(scorer: Scorer, split: Split, rng: np.random.Generator) -> list[Line]:
    """An image with one of its captions each; images without captions are left out."""
    captions = rng.permutation(len(split.captions))
    owners, first = np.unique(split.owner[captions], return_index=True)
    chosen = np.sort(rng.permutation(len(owners))[:MAX_SAMPLES])
    lines = []
    for place in show_progress(chosen.tolist(), "measure training data"):
        regions, text = split.regions(int(owners[place])), split.texts[captions[first[place]]]
        picture = RequestImage(regions, regions.boxes, regions.classes)
        lines.append(Line(**measure_picture(picture), **measure_text(text, scorer.model.vocabulary)))
    return lines
