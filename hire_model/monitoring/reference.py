"""Build the reference: the measurements of a journal, made on a sample of the model's data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hire_model.data.store import Split
from hire_model.monitoring.journal import Line, measure_image, measure_text
from hire_model.progress import show_progress
from hire_model.scoring.scorer import Scorer
from hire_model.service.parsing import RequestImage

MAX_SAMPLES = 2000
"""Maximum number of images that are measured, and of captions that are scored."""
_BLOCK = 128


@dataclass(frozen=True)
class Reference:
    """The measurements of a data set.

    lines         one image of the training split with one of its captions each, without scores
    matching      [n] scores of captions of the held-out split with their own image
    non_matching  [m] scores of the same captions with the image of another caption
    images        number of different images of the scored captions
    """

    lines: list[Line]
    matching: np.ndarray
    non_matching: np.ndarray
    images: int


def build_reference(scorer: Scorer, train: Split, held_out: Split, seed: int = 0) -> Reference:
    """Sample both splits and measure them, with one block of images in memory at a time.

    The scores are from `held_out`, as a model scores its training pairs higher than later pairs.
    Raises DataError if the data do not fit the model.
    """
    rng = np.random.default_rng(seed)
    matching, non_matching = [], []
    captions = rng.permutation(len(held_out.captions))[:MAX_SAMPLES]
    for start in show_progress(range(0, len(captions), _BLOCK), "score held-out pairs"):
        block = captions[start : start + _BLOCK]
        images, texts = held_out.owner[block], [held_out.texts[row] for row in block]
        regions = {image: held_out.regions(image) for image in set(images.tolist())}
        changed = np.flatnonzero(images != np.roll(images, 1))  # rows whose previous caption is of another image
        pairs = [(regions[image], text) for image, text in zip(images.tolist(), texts, strict=True)]
        pairs += [(regions[int(images[row])], texts[row - 1]) for row in changed]
        scores = scorer.predict(pairs)
        matching.append(scores[: len(block)])
        non_matching.append(scores[len(block) :])
    return Reference(
        _measure_images(scorer, train, rng),
        np.concatenate(matching),
        np.concatenate(non_matching),
        len(np.unique(held_out.owner[captions])),
    )


def _measure_images(scorer: Scorer, split: Split, rng: np.random.Generator) -> list[Line]:
    """Measure a sample of the images, each with one of its captions; images without captions are skipped."""
    captions = rng.permutation(len(split.captions))
    owners, first = np.unique(split.owner[captions], return_index=True)
    chosen = np.sort(rng.permutation(len(owners))[:MAX_SAMPLES])
    lines = []
    for k in show_progress(chosen.tolist(), "measure training data"):
        regions, text = split.regions(int(owners[k])), split.texts[captions[first[k]]]
        image = RequestImage(regions, regions.boxes, regions.classes)
        lines.append(Line(**measure_image(image), **measure_text(text, scorer.model.vocabulary)))
    return lines
