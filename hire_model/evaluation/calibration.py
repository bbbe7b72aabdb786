"""Calibration: where the model says 80 % that this is the caption's image, is it so in 80 of 100 cases?

A score is no probability. Temperature scaling makes one of it: softmax over the gallery of score / T, with the one T
that gives the right images the highest likelihood. The expected calibration error is the mean gap between confidence
and accuracy over 15 bins of equal width, weighted by their queries. Source: Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017.

T is fitted on the captions of every other image and judged on those between, and the other way round, so that no query
is judged with a temperature that has seen it, and no further split is needed.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

BINS = 15
_MOST = 2000  # captions that are asked, spread over the split
_SHARPEST, _FLATTEST = 1e-4, 1e2  # temperatures


class Calibration(BaseModel):
    """How well confidence and success agree, caption to image; all shares in 0-1.

    temperature  the two halves' mean; softmax(score / temperature) over a gallery of this size
    ece          expected calibration error
    confidence   mean probability of the image found first; accuracy: how often it is the right one (a tie is not)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    queries: int
    gallery: int
    temperature: float
    ece: float
    confidence: float
    accuracy: float


def measure_calibration(similarity: np.ndarray, owner: np.ndarray, most: int = _MOST) -> Calibration | None:
    """The calibration of a matrix [N, M] with caption-to-image map `owner` [M]; None with fewer than four images."""
    images, captions = similarity.shape
    if images < 4 or len(np.unique(owner % 2)) < 2:
        return None
    asked = np.unique(np.linspace(0, captions - 1, min(most, captions)).astype(int))
    scores, owner = np.asarray(similarity[:, asked], np.float64).T, np.asarray(owner)[asked]
    halves = [np.flatnonzero(owner % 2 == half) for half in (0, 1)]
    if min(map(len, halves)) == 0:
        return None
    temperatures = [_fit_temperature(scores[half], owner[half]) for half in halves]
    confidence, hit = np.empty(len(asked)), np.empty(len(asked), bool)
    for half, temperature in zip(halves, reversed(temperatures), strict=True):
        confidence[half] = np.exp(_log_softmax(scores[half] / temperature)).max(axis=1)
        own = scores[half, owner[half]]
        hit[half] = (scores[half] >= own[:, None]).sum(axis=1) == 1
    return Calibration(
        queries=len(asked),
        gallery=images,
        temperature=float(np.mean(temperatures)),
        ece=compute_calibration_error(confidence, hit),
        confidence=float(confidence.mean()),
        accuracy=float(hit.mean()),
    )


def compute_calibration_error(confidence: np.ndarray, hit: np.ndarray) -> float:
    """The expected calibration error, 0-1, of confidences [Q] in 0-1 and successes [Q]."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - hit, minlength=BINS)  # per bin: queries x (confidence - accuracy)
    return float(np.abs(gaps).sum() / len(confidence))


def _fit_temperature(scores: np.ndarray, owner: np.ndarray) -> float:
    """The temperature of the highest likelihood; it is unimodal, as the loss is convex in 1 / T."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(owner))

    def loss(log_temperature: float) -> float:
        return -float(_log_softmax(scores / np.exp(log_temperature))[rows, owner].mean())

    ends = (np.log(_SHARPEST), np.log(_FLATTEST))
    return float(np.exp(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-3}).x))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
