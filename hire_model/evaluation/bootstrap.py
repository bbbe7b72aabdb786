"""Compute confidence intervals: percentile bootstrap over queries, clustered by image.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.

The captions of an image describe the same scene, so their ranks are correlated. Drawing captions one by one would treat
them as independent and give intervals that are too narrow. Therefore images are drawn, each with all its captions. Both
directions use the same draw, so that rSum's interval includes their correlation. The gallery does not change: the
intervals measure how much a result depends on the choice of queries, not on the choice of searched items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from hire_model.evaluation.ranks import NO_QUERY
from hire_model.evaluation.result import KS, Interval

FIGURES: Final = (*(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS), "rsum")
_DRAWS_AT_ONCE = 256


def bootstrap_intervals(
    i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray, fold: np.ndarray, draws: int, seed: int, level: float = 0.95
) -> dict[str, Interval]:
    """Compute intervals of 'i2t_r1' ... 't2i_r10' (0-100) and 'rsum' (0-600).

    Images are drawn within their fold, and folds are averaged, as for the recalls themselves. The same seed gives the
    same intervals.

    Args:
        i2t: [N] ranks of the images.
        t2i: [M] ranks of the captions.
        owner: [M] row of each caption's image.
        fold: [N] fold of each image.
        draws: Number of resamplings.
        seed: Seed of the draws.
        level: Confidence level.
    """
    return _compute_intervals(_draw_recalls(i2t, t2i, owner, fold, draws, seed), level)


def bootstrap_differences(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    owner: np.ndarray,
    fold: np.ndarray,
    draws: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Compute the intervals of first - second for each of FIGURES.

    first and second are (i2t [N], t2i [M]) of a model over the same queries. Both models use the same draws, so
    variation that affects both cancels. The paired interval is therefore narrower than a comparison of two separate
    intervals.
    """
    return bootstrap_mean_differences([first], [second], owner, fold, draws, seed, level)


def bootstrap_mean_differences(
    first: Sequence[tuple[np.ndarray, np.ndarray]],
    second: Sequence[tuple[np.ndarray, np.ndarray]],
    owner: np.ndarray,
    fold: np.ndarray,
    draws: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Compute the intervals as `bootstrap_differences`, of the mean over several trainings (seeds) of each model.

    All trainings use the same draws of images. The interval covers the choice of images, not that of the seeds.
    """
    means = [
        np.mean([_draw_recalls(*one, owner, fold, draws, seed) for one in side], axis=0) for side in (first, second)
    ]
    return _compute_intervals(means[0] - means[1], level)


def draw_rsums(
    i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray, fold: np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """Draw images again and again; return rSum of each draw, [draws]. The same seed draws the same images."""
    return _draw_recalls(i2t, t2i, owner, fold, draws, seed).sum(axis=1)


def bootstrap_share(wins: np.ndarray, totals: np.ndarray, draws: int, seed: int, level: float = 0.95) -> Interval:
    """Compute the interval of the share of wins (0-100). wins, totals: [images] counts per image; images are drawn."""
    random, images = np.random.default_rng(seed), len(wins)
    times = random.multinomial(images, np.full(images, 1 / images), size=draws)
    low, high = np.percentile(100 * (times @ wins) / (times @ totals), _to_percentiles(level))
    return float(low), float(high)


def _compute_intervals(recalls: np.ndarray, level: float) -> dict[str, Interval]:
    """Return the interval of each column of `recalls` [draws, 6] and of their sum."""
    table = np.column_stack([recalls, recalls.sum(axis=1)])
    low, high = np.percentile(table, _to_percentiles(level), axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(FIGURES, low, high, strict=True)}


def _to_percentiles(level: float) -> list[float]:
    return [50 * (1 - level), 50 * (1 + level)]


def _draw_recalls(
    i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray, fold: np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """Return [draws, 6] recalls of resampled images, folds averaged; the same seed draws the same images."""
    random = np.random.default_rng(seed)
    folds = [np.flatnonzero((fold == f) & (i2t != NO_QUERY)) for f in range(int(fold.max()) + 1)]
    hits = _count_hits(i2t, t2i, owner)
    return np.mean([_resample(hits[rows], draws, random) for rows in folds], axis=0)


def _count_hits(i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return [N, 8]: i2t hits at each K, number of i2t queries (1), t2i hits at each K, number of captions."""
    columns = [(i2t <= k).astype(float) for k in KS] + [np.ones(len(i2t))]
    columns += [np.bincount(owner, weights=t2i <= k, minlength=len(i2t)) for k in KS]
    columns.append(np.bincount(owner, minlength=len(i2t)).astype(float))
    return np.column_stack(columns)


def _resample(hits: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Return [draws, 6] recalls of resampled images: weighted hits divided by weighted queries."""
    images, parts = len(hits), []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        times = random.multinomial(images, np.full(images, 1 / images), size=size)
        sums = times @ hits
        parts.append(100 * np.column_stack([sums[:, 0:3] / sums[:, 3:4], sums[:, 4:7] / sums[:, 7:8]]))
    return np.concatenate(parts)
