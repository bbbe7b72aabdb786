"""What a journal is compared with: the same figures of a data set that the model knows, a sample of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hire_model.data.store import Split
from hire_model.monitoring.journal import Line, of_picture, of_text
from hire_model.progress import track
from hire_model.scoring.scorer import Scorer
from hire_model.service.parsing import RequestImage

MOST = 2000
"""Images whose figures are taken, and captions that are scored, at most."""
_BLOCK = 128


@dataclass(frozen=True)
class Reference:
    """A data set as a journal would have it.

    lines     an image of the training split with one of its captions each, without scores
    matching  [n] scores of captions of the held-out split with their own image
    other     [m] scores of the same with the image of another
    images    how many images the held-out captions have in all
    """

    lines: list[Line]
    matching: np.ndarray
    other: np.ndarray
    images: int


def reference(scorer: Scorer, train: Split, held_out: Split, seed: int = 0) -> Reference:
    """Sample both splits; one block of images is in memory at a time.

    The scores are of `held_out`, as a model scores what it has learned from higher than anything it is asked later.
    Raises DataError where the data do not fit the model.
    """
    rng = np.random.default_rng(seed)
    matching, other = [], []
    captions = rng.permutation(len(held_out.captions))[:MOST]
    for start in track(range(0, len(captions), _BLOCK), "score held-out pairs"):
        block = captions[start : start + _BLOCK]
        images, texts = held_out.owner[block], [held_out.texts[row] for row in block]
        known = {image: held_out.regions(image) for image in set(images.tolist())}
        strangers = np.flatnonzero(images != np.roll(images, 1))  # the next one's caption, where it is another's
        pairs = [(known[image], text) for image, text in zip(images.tolist(), texts, strict=True)]
        pairs += [(known[int(images[row])], texts[row - 1]) for row in strangers]
        scores = scorer.predict(pairs)
        matching.append(scores[: len(block)])
        other.append(scores[len(block) :])
    return Reference(
        _lines(scorer, train, rng),
        np.concatenate(matching),
        np.concatenate(other),
        len(np.unique(held_out.owner[captions])),
    )


def _lines(scorer: Scorer, split: Split, rng: np.random.Generator) -> list[Line]:
    """An image with one of its captions each; images without captions are left out."""
    captions = rng.permutation(len(split.captions))
    owners, first = np.unique(split.owner[captions], return_index=True)
    chosen = np.sort(rng.permutation(len(owners))[:MOST])
    lines = []
    for place in track(chosen.tolist(), "measure training data"):
        regions, text = split.regions(int(owners[place])), split.texts[captions[first[place]]]
        picture = RequestImage(regions, regions.boxes, regions.classes)
        lines.append(Line(**of_picture(picture), **of_text(text, scorer.model.vocabulary)))
    return lines
