"""Measure calibration: of the results with a confidence of 80 %, are 80 % correct?

Temperature scaling turns scores into probabilities: softmax of score / T over the gallery, with the T that maximises
the likelihood of the correct images. The expected calibration error is the mean gap between confidence and accuracy
over 15 bins of equal width, weighted by their number of queries. Source: Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017.

T is fitted on the captions of even images and evaluated on those of odd images, and vice versa. So no query is
evaluated with a temperature fitted on it, and no further split is needed.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

BINS = 15
_MAX_CAPTIONS = 2000  # spread over the split
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 1e-4, 1e2


class Calibration(BaseModel):
    """How well confidence and accuracy agree for caption-to-image queries; all shares in 0-1.

    queries, gallery  number of captions and of images
    temperature       mean of both halves, for softmax(score / temperature) over a gallery of this size
    ece               expected calibration error
    confidence        mean probability of the top image
    accuracy          share of queries whose top image is correct; a tie is not
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    queries: int
    gallery: int
    temperature: float
    ece: float
    confidence: float
    accuracy: float


def measure_calibration(
    similarity: np.ndarray, owner: np.ndarray, max_captions: int = _MAX_CAPTIONS
) -> Calibration | None:
    """Measure the calibration of a matrix [N, M] with caption-to-image map `owner` [M].

    Returns None with fewer than four images, or if all chosen captions belong to even or to odd images.
    """
    images, captions = similarity.shape
    if images < 4 or len(np.unique(owner % 2)) < 2:
        return None
    chosen = np.unique(np.linspace(0, captions - 1, min(max_captions, captions)).astype(int))
    scores, owner = np.asarray(similarity[:, chosen], np.float64).T, np.asarray(owner)[chosen]
    halves = [np.flatnonzero(owner % 2 == half) for half in (0, 1)]
    if min(map(len, halves)) == 0:
        return None
    temperatures = [_fit_temperature(scores[half], owner[half]) for half in halves]
    confidence, hit = np.empty(len(chosen)), np.empty(len(chosen), bool)
    for half, temperature in zip(halves, reversed(temperatures), strict=True):
        confidence[half] = np.exp(_log_softmax(scores[half] / temperature)).max(axis=1)
        correct = scores[half, owner[half]]
        hit[half] = (scores[half] >= correct[:, None]).sum(axis=1) == 1
    return Calibration(
        queries=len(chosen),
        gallery=images,
        temperature=float(np.mean(temperatures)),
        ece=compute_calibration_error(confidence, hit),
        confidence=float(confidence.mean()),
        accuracy=float(hit.mean()),
    )


def compute_calibration_error(confidence: np.ndarray, hit: np.ndarray) -> float:
    """Compute the expected calibration error (0-1) of confidences [Q] in 0-1 and hits [Q] bool."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - hit, minlength=BINS)  # per bin: queries x (confidence - accuracy)
    return float(np.abs(gaps).sum() / len(confidence))


def _fit_temperature(scores: np.ndarray, owner: np.ndarray) -> float:
    """Return the temperature with the highest likelihood. The loss is convex in 1 / T, so there is one minimum."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(owner))

    def loss(log_temperature: float) -> float:
        return -float(_log_softmax(scores / np.exp(log_temperature))[rows, owner].mean())

    bounds = (np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
