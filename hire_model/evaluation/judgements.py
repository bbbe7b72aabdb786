"""Measure how well scores agree with human judgements: Kendall's tau-c, as in Hessel et al. 2021 (CLIPScore)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau

from hire_model.data.store import Split
from hire_model.errors import HireError
from hire_model.evaluation.judgement_result import Agreement, JudgementResult
from hire_model.evaluation.judgement_sets import MatchedJudgements
from hire_model.evaluation.result import Interval
from hire_model.progress import show_progress
from hire_model.scoring.scorer import Scorer

_PAIRS = 1024  # scored together, at least; the pairs of an image stay together
_DRAWS = 200  # at most: tau takes milliseconds per draw


def measure_judgements(
    scorers: Sequence[Scorer], split: Split, files: Sequence[MatchedJudgements], draws: int = _DRAWS, seed: int = 0
) -> JudgementResult:
    """Measure the agreement with each file.

    Args:
        scorers: one, or several whose scores are averaged. Their predicates must be those of the data set.
        split: the split that the judgements are matched with.
        files: the judgements of each file.
        draws: bootstrap resamplings of images, at most 200 are used; 0 for no intervals.
        seed: seed of the bootstrap.

    Raises:
        HireError: all grades of a file are equal, or a score is NaN.
    """
    draws = min(draws, _DRAWS)
    sets = {}
    for matched in files:
        scores = np.mean([_score(scorer, split, matched) for scorer in scorers], axis=0)
        sets[matched.path.stem] = _measure_agreement(scores, matched, draws, seed)
    return JudgementResult(sets=sets, bootstrap=draws, seed=seed)


def _score(scorer: Scorer, split: Split, matched: MatchedJudgements) -> np.ndarray:
    """Score the pairs [K]. Each image is encoded once."""
    scores = np.empty(len(matched.judgements))
    starts = [0, *(np.flatnonzero(np.diff(matched.images)) + 1).tolist(), len(scores)]
    first = 0
    for end in show_progress(starts[1:], "human judgements"):
        if end - first < _PAIRS and end < len(scores):
            continue
        regions = {row: split.regions(row) for row in np.unique(matched.images[first:end]).tolist()}
        pairs = [(regions[int(matched.images[k])], matched.judgements[k].text) for k in range(first, end)]
        scores[first:end] = scorer.predict(pairs)
        first = end
    return scores


def _measure_agreement(scores: np.ndarray, matched: MatchedJudgements, draws: int, seed: int) -> Agreement:
    wrong = np.flatnonzero(np.isnan(scores))
    if len(wrong):
        pair = matched.judgements[int(wrong[0])]
        raise HireError(
            f"The score of image '{pair.image}' and text '{pair.text}' is NaN ({len(wrong)} in all). Look for NaN in "
            "the features or the weights."
        )
    counts = np.array([len(one.grades) for one in matched.judgements])
    grades = np.array([grade for one in matched.judgements for grade in one.grades])
    if len(np.unique(grades)) < 2:
        raise HireError(f"{matched.path}: all grades are {grades[0]:g}. Expected pairs with different grades.")
    repeated, image = np.repeat(scores, counts), np.repeat(matched.images, counts)
    return Agreement(
        file=str(matched.path),
        pairs=len(scores),
        images=len(np.unique(matched.images)),
        grades=len(grades),
        tau_c=_compute_tau(repeated, grades, "c"),
        tau_b=_compute_tau(repeated, grades, "b"),
        interval=_bootstrap_tau(repeated, grades, image, draws, seed) if draws else None,
        missing_images=matched.missing,
        pairs_left_out=matched.left_out,
        own_captions=matched.own_captions,
    )


def _compute_tau(scores: np.ndarray, grades: np.ndarray, variant: str) -> float:
    """Return Kendall's tau times 100; 0 if all scores or all grades are equal, where it is undefined."""
    tau = float(kendalltau(scores, grades, variant=variant).statistic)
    return 0.0 if np.isnan(tau) else 100 * tau


def _bootstrap_tau(scores: np.ndarray, grades: np.ndarray, image: np.ndarray, draws: int, seed: int) -> Interval:
    """Compute the interval of tau-c; images are drawn with all their grades."""
    random, rows = np.random.default_rng(seed), np.split(np.arange(len(image)), np.flatnonzero(np.diff(image)) + 1)
    taus = []
    for _ in range(draws):
        drawn = np.concatenate([rows[k] for k in random.integers(0, len(rows), len(rows))])
        taus.append(_compute_tau(scores[drawn], grades[drawn], "c"))
    low, high = np.percentile(taus, [2.5, 97.5])
    return float(low), float(high)
