"""Percentile bootstrap over queries, clustered by image.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.

The five captions of a picture describe the same scene: where one finds it, the others mostly do. Drawing captions one
by one would treat them as independent and give intervals that are too narrow, so images are drawn, each with all of
its captions; both directions see the same draw, so rSum's interval knows that they move together. The gallery stays
as it is: the interval says how far the figures depend on which queries were asked, not on which items were searched.
"""

from __future__ import annotations

import numpy as np

from hire_model.evaluation.ranks import NO_QUERY
from hire_model.evaluation.result import KS, Interval

FIGURES = (*(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS), "rsum")
_DRAWS_AT_ONCE = 256


def bootstrap_intervals(
    i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray, fold: np.ndarray, draws: int, seed: int, level: float = 0.95
) -> dict[str, Interval]:
    """Intervals of 'i2t_r1' ... 't2i_r10' and 'rsum', in 0-100 (rsum 0-600).

    i2t [N], t2i [M] ranks; owner [M]; fold [N]. Images are drawn within their fold and folds averaged, as the figures
    themselves are. The same seed gives the same intervals.
    """
    recalls = _draw_recalls(i2t, t2i, owner, fold, draws, seed)
    table = np.column_stack([recalls, recalls.sum(axis=1)])
    low, high = np.percentile(table, _to_percentiles(level), axis=0)
    names = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in KS] + ["rsum"]
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def bootstrap_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    owner: np.ndarray,
    fold: np.ndarray,
    draws: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Interval of rSum(first) - rSum(second); each is (i2t [N], t2i [M]) of one model over the same queries.

    Both models see the same draw of images, so what makes a draw easy for both cancels: the interval is narrower than
    two intervals side by side suggest, and says what those cannot, whether the difference outlasts another draw.
    """
    ours, theirs = (_draw_recalls(*ranks, owner, fold, draws, seed).sum(axis=1) for ranks in (first, second))
    low, high = np.percentile(ours - theirs, _to_percentiles(level))
    return float(low), float(high)


def bootstrap_differences(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    owner: np.ndarray,
    fold: np.ndarray,
    draws: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Compute the interval of each recall's difference and of rSum's, by name as in `bootstrap_intervals`.

    The arguments are those of `bootstrap_difference`, and so is the interval of 'rsum'.
    """
    recalls = _draw_recalls(*first, owner, fold, draws, seed) - _draw_recalls(*second, owner, fold, draws, seed)
    table = np.column_stack([recalls, recalls.sum(axis=1)])
    low, high = np.percentile(table, _to_percentiles(level), axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(FIGURES, low, high, strict=True)}


def bootstrap_share(wins: np.ndarray, asked: np.ndarray, draws: int, seed: int, level: float = 0.95) -> Interval:
    """Interval of the share of wins, 0-100; `wins` and `asked` [groups] count per image, and images are drawn."""
    random, groups = np.random.default_rng(seed), len(wins)
    times = random.multinomial(groups, np.full(groups, 1 / groups), size=draws)
    low, high = np.percentile(100 * (times @ wins) / (times @ asked), _to_percentiles(level))
    return float(low), float(high)


def _to_percentiles(level: float) -> list[float]:
    return [50 * (1 - level), 50 * (1 + level)]


def _draw_recalls(
    i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray, fold: np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """[draws, 6] recalls of resampled images, folds averaged; the same seed draws the same images."""
    random = np.random.default_rng(seed)
    folds = [np.flatnonzero((fold == f) & (i2t != NO_QUERY)) for f in range(int(fold.max()) + 1)]
    hits = _count_hits(i2t, t2i, owner)
    return np.mean([_resample(hits[rows], draws, random) for rows in folds], axis=0)


def _count_hits(i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """[N, 8]: i2t hits at each K, queries of i2t (1), t2i hits at each K summed over captions, captions."""
    columns = [(i2t <= k).astype(float) for k in KS] + [np.ones(len(i2t))]
    columns += [np.bincount(owner, weights=t2i <= k, minlength=len(i2t)) for k in KS]
    columns.append(np.bincount(owner, minlength=len(i2t)).astype(float))
    return np.column_stack(columns)


def _resample(hits: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """[draws, 6] recalls: how often each image was drawn, times its hits, over what was asked."""
    images, parts = len(hits), []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        times = random.multinomial(images, np.full(images, 1 / images), size=size)
        sums = times @ hits
        parts.append(100 * np.column_stack([sums[:, 0:3] / sums[:, 3:4], sums[:, 4:7] / sums[:, 7:8]]))
    return np.concatenate(parts)
