"""How long an answer takes on this machine: medians, as a mean is a matter of what else ran."""

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
    """Median milliseconds: of one image against one caption, and of one caption against encoded images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pair_ms: float
    query_ms: float
    gallery: int


def measure_speed(scorer: Scorer, split: Split, times: int = _TIMES) -> Speed:
    """Time whole answers with different captions of the split.

    A pair: encode the image, encode the caption, score. A query: encode the caption and score it against GALLERY images
    (or all of a smaller split) that are encoded already, as in a gallery.
    """
    images = [split.regions(image) for image in range(min(GALLERY, len(split.images)))]
    gallery, texts = scorer.encode_images(images), split.texts
    numbers = np.arange(len(images))

    def pair(number: int) -> None:
        scorer.predict([(images[number % len(images)], texts[number % len(texts)])])

    def query(number: int) -> None:
        encoded = scorer.encode_texts([texts[number % len(texts)]])
        scorer.score(gallery, encoded, numbers, np.zeros_like(numbers))

    return Speed(pair_ms=_time_median(pair, times), query_ms=_time_median(query, times), gallery=len(images))


def _time_median(answer: Callable[[int], None], times: int) -> float:
    """The answers end on the CPU (`Scorer` gives numpy), so nothing is still under way when the clock is read."""
    for number in range(_WARM_UP):
        answer(number)
    taken = []
    for number in range(times):
        start = time.perf_counter()
        answer(number)
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken))
