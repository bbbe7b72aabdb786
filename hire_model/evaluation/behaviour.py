"""Behaviour tests: does an image score its own caption above the same caption with its meaning changed?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict

from hire_model.data.store import Split
from hire_model.evaluation.bootstrap import share_interval
from hire_model.evaluation.contrasts import CONTRASTS
from hire_model.evaluation.result import Interval
from hire_model.progress import track
from hire_model.scoring.scorer import ImageTextPair, Scorer

TIE = 1e-5  # scores nearer than this differ by the order of a sum, and by nothing that the model knows
FEWEST = 20  # captions below which a share says nothing
_MOST = 500  # captions of a kind, spread over the split
_IMAGES_AT_ONCE = 32
_DRAWS = 1000


class Behaviour(BaseModel):
    """Share of captions, 0-100, whose own image scores them above their contrast by more than TIE; 95 % interval.

    A tie counts against the model: one that ignores the change gets 0, one that guesses 50.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    captions: int
    share: float
    interval: Interval


def behaviours(scorer: Scorer, split: Split, most: int = _MOST) -> dict[str, Behaviour]:
    """The share of each kind of contrast (see `contrasts`) that the split has at least FEWEST captions for.

    scorer: its predicates must be those of the split's data set.
    """
    contrasts = {kind: _spread(split, kind, most) for kind in CONTRASTS}
    contrasts = {kind: found for kind, found in contrasts.items() if len(found) >= FEWEST}
    wins = {kind: {caption: False for caption in found} for kind, found in contrasts.items()}
    for images in _blocks(sorted({int(split.owner[caption]) for found in contrasts.values() for caption in found})):
        asked = [
            (kind, caption, text)
            for kind, found in contrasts.items()
            for caption, text in found.items()
            if split.owner[caption] in images
        ]
        regions = {image: split.regions(image) for image in images}
        pairs: list[ImageTextPair] = []
        for _, caption, text in asked:
            own = regions[int(split.owner[caption])]
            pairs += [(own, split.texts[caption]), (own, text)]
        scores = scorer.predict(pairs).reshape(-1, 2)
        for (kind, caption, _), (true, changed) in zip(asked, scores, strict=True):
            wins[kind][caption] = bool(true > changed + TIE)
    return {kind: _summary(found, split.owner) for kind, found in wins.items()}


def _spread(split: Split, kind: str, most: int) -> dict[int, str]:
    """{caption: contrast} of at most `most` captions, evenly over the split."""
    found = {row: text for row, caption in enumerate(split.texts) if (text := CONTRASTS[kind](caption)) is not None}
    rows = list(found)
    if not rows:
        return {}
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))
    return {rows[place]: found[rows[place]] for place in chosen}


def _blocks(images: list[int]) -> Iterator[set[int]]:
    starts = range(0, len(images), _IMAGES_AT_ONCE)
    for start in track(starts, "behaviour tests"):
        yield set(images[start : start + _IMAGES_AT_ONCE])


def _summary(wins: dict[int, bool], owner: np.ndarray) -> Behaviour:
    """The share and its interval; the contrasts of one image are drawn together."""
    images, index = np.unique(owner[list(wins)], return_inverse=True)
    won = np.bincount(index, weights=np.array(list(wins.values()), float), minlength=len(images))
    interval = share_interval(won, np.bincount(index, minlength=len(images)), _DRAWS, seed=0)
    return Behaviour(captions=len(wins), share=100 * float(won.sum()) / len(wins), interval=interval)
