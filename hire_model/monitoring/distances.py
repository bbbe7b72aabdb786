"""Measure distances between two samples of one statistic, PSI and Kolmogorov-Smirnov, and their size by chance."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

MIN_VALUES = 100
"""Samples with fewer values are not compared."""
BINS = 10
_CHANCE = 0.001  # probability that a distance exceeds its size by chance
_EMPTY_SHARE = 1e-4  # used for empty bins, as the PSI takes a logarithm
_MIXTURE_EMPTY_SHARE = 1e-3
_MIN_EXPECTED = 10
_GRID = np.linspace(0, 1, 101)  # candidate shares of matching pairs


@dataclass(frozen=True)
class SamplePair:
    """The values of one statistic in the reference and in the journal.

    reference, journal   [m], [n] float64, or str for a categorical statistic
    reference_size       number of independent values in `reference`, m or fewer
    """

    name: str
    reference: np.ndarray
    journal: np.ndarray
    reference_size: int

    @property
    def too_few(self) -> bool:
        """Whether one of the samples has too few values to compare."""
        return min(len(self.reference), len(self.journal)) < MIN_VALUES

    @property
    def is_categorical(self) -> bool:
        """Whether the values are names instead of numbers."""
        return self.reference.dtype.kind not in "fi"


@dataclass(frozen=True)
class Distance:
    """PSI and KS distance (0 if categorical). By chance they exceed `psi_chance` and `ks_chance` once in 1000 times."""

    psi: float
    psi_chance: float
    ks: float
    ks_chance: float

    @property
    def psi_beyond(self) -> float:
        """PSI, or 0 if it may be chance."""
        return self.psi if self.psi > self.psi_chance else 0.0

    @property
    def ks_beyond(self) -> float:
        """KS distance, or 0 if it may be chance."""
        return self.ks if self.ks > self.ks_chance else 0.0


def measure_distance(pair: SamplePair) -> Distance:
    """Measure the distance of the journal's values from the reference's.

    If both samples have the same distribution, PSI / (1/n + 1/m) is about chi-squared with (number of bins - 1) degrees
    of freedom (Yurdakul, Statistical Properties of Population Stability Index, 2018), and sqrt(nm / (n + m)) D has
    Kolmogorov's distribution.
    """
    from scipy.stats import chi2, ks_2samp, kstwobign

    spread = 1 / len(pair.journal) + 1 / pair.reference_size
    bins = len(np.unique(pair.reference))
    bins = bins if pair.is_categorical else min(BINS, bins)
    psi = compute_psi(pair.reference, pair.journal)
    psi_chance = float(chi2.ppf(1 - _CHANCE, bins - 1)) * spread if bins > 1 else 0.0
    if pair.is_categorical:
        return Distance(psi, psi_chance, 0.0, 0.0)
    ks = float(ks_2samp(pair.journal, pair.reference, method="asymp").statistic)
    return Distance(psi, psi_chance, ks, float(kstwobign.ppf(1 - _CHANCE)) * sqrt(spread))


def compute_psi(reference: np.ndarray, journal: np.ndarray) -> float:
    """Compute the population stability index of two samples, float or str.

    PSI = sum over bins of (q - p) ln(q / p), where p and q are the shares of `reference` and `journal` in a bin; an
    empty bin counts as 0.0001 (Siddiqi, Credit Risk Scorecards, 2006; Yurdakul, 2018). Numbers have ten bins with the
    same number of values of `reference`, or fewer bins if values repeat. Each name is one bin.
    """
    if reference.dtype.kind in "fi":
        edges = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)))[1:-1]
        reference, journal = (np.searchsorted(edges, sample) for sample in (reference, journal))
    bins = np.unique(np.concatenate([reference, journal]))
    shares = (np.array([np.mean(sample == value) for value in bins]) for sample in (reference, journal))
    p, q = (np.where(share > 0, share, _EMPTY_SHARE) for share in shares)
    return float(((q - p) * np.log(q / p)).sum())


def fit_mixture(scores: np.ndarray, matching: np.ndarray, non_matching: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit `scores` by a mixture of scores of matching and non-matching pairs; return the share and a sample of it.

    The share of matching pairs in the requests depends on the clients and is not drift. The fitted share has the
    smallest PSI, with bins from both samples together. The sample has as many values as `matching`.
    """
    edges = np.quantile(np.concatenate([matching, non_matching]), np.linspace(0, 1, 2 * BINS + 1)[1:-1])
    observed, p_matching, p_non_matching = (
        np.bincount(np.searchsorted(edges, sample), minlength=2 * BINS) / len(sample) + _MIXTURE_EMPTY_SHARE
        for sample in (scores, matching, non_matching)
    )
    mixed = _GRID[:, None] * p_matching + (1 - _GRID[:, None]) * p_non_matching
    share = float(_GRID[((observed - mixed) * np.log(observed / mixed)).sum(axis=1).argmin()])
    count = round(share * len(matching))
    parts = [_resample(matching, count), _resample(non_matching, len(matching) - count)]
    return share, np.concatenate(parts)


def _resample(sample: np.ndarray, count: int) -> np.ndarray:
    """Return `count` values with the distribution of `sample`."""
    return np.quantile(sample, (np.arange(count) + 0.5) / count) if count else sample[:0]


def group_rare(reference: np.ndarray, journal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace rare names in both samples by groups such as 'cat +3', formed in order of frequency in the reference.

    A group has at least 2 % of the reference and at least ten expected values in the journal: otherwise a group that
    is empty by chance would look like a large change. Names that the reference lacks join the rarest group.
    """
    names, counts = np.unique(reference, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    min_size, remaining = max(0.02, _MIN_EXPECTED / max(1, len(journal))) * len(reference), len(reference)
    groups: list[list[str]] = [[]]
    size = 0
    for name, count in zip(names[order].tolist(), counts[order].tolist(), strict=True):
        if size >= min_size and remaining >= min_size:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size, remaining = size + count, remaining - count
    titles = [group[0] if len(group) == 1 else f"{group[0]} +{len(group) - 1}" for group in groups if group]
    title_of = {name: title for title, group in zip(titles, groups, strict=False) for name in group}
    first, second = (
        np.array([title_of.get(name, titles[-1]) for name in sample.tolist()], np.str_)
        for sample in (reference, journal)
    )
    return first, second
