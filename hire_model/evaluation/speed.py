"""Measure the response time on this machine. Medians are used, as other processes distort a mean."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict

from hire_model.data.store import Split
from hire_model.scoring.scorer import Scorer

GALLERY = 100
_WARM_UP, _TIMES = 3, 20


class Speed(BaseModel):
    """Median milliseconds of one image-caption pair, and of one caption against a gallery of encoded images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pair_ms: float
    query_ms: float
    gallery: int


def measure_speed(scorer: Scorer, split: Split, times: int = _TIMES) -> Speed:
    """Measure pairs and queries with different captions of the split, `times` times each.

    A pair: encode the image and the caption, and score them. A query: encode the caption and score it against GALLERY
    encoded images, or all images of a smaller split.
    """
    images = [split.regions(image) for image in range(min(GALLERY, len(split.images)))]
    gallery, texts = scorer.encode_images(images), split.texts
    rows = np.arange(len(images))

    def score_pair(number: int) -> None:
        scorer.predict([(images[number % len(images)], texts[number % len(texts)])])

    def search_gallery(number: int) -> None:
        encoded = scorer.encode_texts([texts[number % len(texts)]])
        scorer.score(gallery, encoded, rows, np.zeros_like(rows))

    return Speed(
        pair_ms=_measure_median_ms(score_pair, times),
        query_ms=_measure_median_ms(search_gallery, times),
        gallery=len(images),
    )


def _measure_median_ms(call: Callable[[int], None], times: int) -> float:
    """Return the median milliseconds of `call`. `Scorer` returns numpy arrays, so no GPU work is pending afterwards."""
    for number in range(_WARM_UP):
        call(number)
    seconds = []
    for number in range(times):
        start = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))
