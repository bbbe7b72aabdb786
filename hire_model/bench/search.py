"""Measure the latency of searching a gallery with a text: encode, shortlist, re-rank."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from hire_model.data.store import Split
from hire_model.gallery import search
from hire_model.gallery.building import build
from hire_model.gallery.store import Gallery
from hire_model.model.hire import Hire
from hire_model.scoring.scorer import Scorer

_WARM = 5


def measure_search(model: Hire, split: Split, queries: int, folder: Path) -> dict[str, float]:
    """Build a gallery of `split` in `folder` and search it with its captions, one by one; return milliseconds."""
    build(model, split, folder, captions=False)
    gallery, scorer = Gallery.open(folder), Scorer(model)
    shortlist = min(search.SHORTLIST, len(gallery))
    times = []
    for number in range(queries + _WARM):
        text = split.texts[number % len(split.texts)]
        before = time.perf_counter()
        search.search_images(scorer, gallery, [text], min(10, shortlist), shortlist)
        times.append(1000 * (time.perf_counter() - before))
    p50, p95, p99 = (float(value) for value in np.percentile(times[_WARM:], [50, 95, 99]))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "images": len(gallery), "shortlist": shortlist}
