"""The reference model: ridge regression from one description of a row to another, solved in closed form.

A row's *rank* is the share of other rows whose description fits the prediction worse than its own: 1 is perfect, 0.5 is
chance. An *alternative* is another pairing, for example with the captions of the next image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

CHANCE = 0.6
"""A mean rank below this is near chance."""
MIN_ROWS = 100
"""Rows that a fit needs at least."""
_RIDGE = 0.3
_OTHERS = 20
_SEED = 20261129
_EQUAL = 1e-6  # cosines that differ by less belong to equal targets
_MIN_GAIN, _GAIN_ERRORS = 0.02, 4.0  # an alternative fits better if its cosine is higher by this, and by four errors
_MIN_IMAGES = 20


@dataclass(frozen=True)
class LinearMap:
    """Standardises x and y, and predicts standardised y: [n, P] to [n, Q]."""

    weights: np.ndarray
    x_moments: tuple[np.ndarray, np.ndarray]
    y_moments: tuple[np.ndarray, np.ndarray]

    def compare(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and targets of all rows with length 1, each [n, Q]."""
        return _unit(_standardise(x, self.x_moments) @ self.weights), _unit(_standardise(y, self.y_moments))


def fit_map(x: np.ndarray, y: np.ndarray) -> LinearMap:
    """Fit x [n, P] to y [n, Q]; the ridge is a share of the mean variance of the standardised x."""
    x_moments, y_moments = _measure(x), _measure(y)
    x, y = _standardise(x, x_moments), _standardise(y, y_moments)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-6)
    return LinearMap(linalg.solve(gram, x.T @ y, assume_a="pos", check_finite=False), x_moments, y_moments)


def _measure(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), x.std(axis=0) + np.float32(1e-6)


def _standardise(x: np.ndarray, moments: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return ((x - moments[0]) / moments[1]).astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Agreement:
    """How well rows agree, NaN where it was not measured.

    ranks    [n] float64, rank of the row's own description
    cosines  [1 + alternatives, n] float64, cosine of prediction and target: as stated, and with each alternative
    """

    ranks: np.ndarray
    cosines: np.ndarray

    def find_better(self, rows: np.ndarray, groups: np.ndarray) -> int:
        """Return the number of the alternative that fits clearly better than the stated pairing, 0 if none does.

        rows: [n] bool, the rows to consider; groups: [n] int64, image of each row: images count, not rows.
        """
        stated, *others = self.cosines
        gains = [_measure_gain(stated[rows], each[rows], groups[rows]) for each in others]
        return 1 + int(np.argmax(gains)) if max(gains, default=0.0) > 0 else 0


@dataclass(frozen=True)
class Pairings:
    """The descriptions to compare, in n rows.

    x          [n, P] float32
    targets    y as stated, then the alternatives to it, each [n, Q] float32
    exchanged  [n, P] float32, an alternative to x, or None
    groups     [n] int64, image of the row
    splits     [n] str
    """

    x: np.ndarray
    targets: list[np.ndarray]
    groups: np.ndarray
    splits: np.ndarray
    exchanged: np.ndarray | None = None


def measure_agreement(pairs: Pairings, reference: str, refit: bool = False) -> Agreement:
    """Predict y from x with a map of the reference split; that split itself is predicted crosswise by halves.

    If the reference split is near chance, each other split is predicted crosswise by itself instead.

    Args:
        pairs: The rows.
        reference: Name of the reference split.
        refit: Fit the alternatives of the reference split anew. Necessary if its stated pairing cannot be learned.
    """
    count = len(pairs.targets)
    anew = list(range(count)) if refit else [0] * count
    size = (count + (pairs.exchanged is not None), len(pairs.x))
    result = Agreement(np.full(len(pairs.x), np.nan), np.full(size, np.nan))
    known = pairs.splits == reference
    _teach_crosswise(pairs, known, anew, result)
    best = result.find_better(known, pairs.groups) if refit else 0
    learned = result.ranks[known & np.isfinite(result.ranks)]
    weak = best == 0 and (not len(learned) or learned.mean() < CHANCE)
    for name in dict.fromkeys(pairs.splits[~known].tolist()):
        rows = pairs.splits == name
        if weak:
            _teach_crosswise(pairs, rows, anew, result)
        else:
            _teach(pairs, known, rows, [best] * count, result)
    return result


def _measure_gain(stated: np.ndarray, other: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean of other - stated [n], or 0 if that may be chance or `other` does not fit either."""
    known = np.isfinite(stated) & np.isfinite(other)
    sizes = np.bincount(groups[known], minlength=1)
    means = np.bincount(groups[known], (other - stated)[known], minlength=1)[sizes > 0] / sizes[sizes > 0]
    if len(means) < _MIN_IMAGES:
        return 0.0
    gain, error = means.mean(), means.std() / np.sqrt(len(means))
    clear = min(gain, other[known].mean()) > max(_MIN_GAIN, _GAIN_ERRORS * error)
    return float(gain) if clear else 0.0


def _teach_crosswise(pairs: Pairings, rows: np.ndarray, fitted: list[int], result: Agreement) -> None:
    """Predict each half of `rows` with a map of the other half."""
    half = (pairs.groups // 2) % 2 == 0  # neighbours stay together: they may be variants of one image
    for teachers, pupils in ((rows & half, rows & ~half), (rows & ~half, rows & half)):
        _teach(pairs, teachers, pupils, fitted, result)


def _teach(pairs: Pairings, teachers: np.ndarray, pupils: np.ndarray, fitted: list[int], result: Agreement) -> None:
    """Fit maps to the rows `teachers` and fill the result of the rows `pupils`.

    fitted: for each target, the number of the target whose map predicts it.
    """
    if np.count_nonzero(teachers) < MIN_ROWS or np.count_nonzero(pupils) < 2:
        return
    x, targets = pairs.x, pairs.targets
    maps = {k: fit_map(x[teachers], targets[k][teachers]) for k in sorted(set(fitted))}
    predicted, target = maps[fitted[0]].compare(x[pupils], targets[0][pupils])
    result.cosines[0, pupils] = np.einsum("nq,nq->n", predicted, target)
    result.ranks[pupils] = _rank(predicted, target, result.cosines[0, pupils])
    for k in range(1, len(targets)):
        result.cosines[k, pupils] = np.einsum("nq,nq->n", *maps[fitted[k]].compare(x[pupils], targets[k][pupils]))
    if pairs.exchanged is not None:
        exchanged = maps[fitted[0]].compare(pairs.exchanged[pupils], targets[0][pupils])
        result.cosines[-1, pupils] = np.einsum("nq,nq->n", *exchanged)


def _rank(predicted: np.ndarray, target: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return for each row the share of some random other targets that fit its prediction worse than its own.

    Targets equal to the row's own are not counted; NaN if all are.
    """
    random, size = np.random.default_rng(_SEED), len(own)
    worse, compared = np.zeros(size), np.zeros(size)
    for _ in range(_OTHERS):
        others = (np.arange(size) + random.integers(1, size, size)) % size
        difference = own - np.einsum("nq,nq->n", predicted, target[others])
        worse += difference > _EQUAL
        compared += np.abs(difference) > _EQUAL
    return np.where(compared > 0, worse / np.maximum(compared, 1), np.nan)
