"""How far two samples of one figure lie apart: PSI and the Kolmogorov-Smirnov distance, and what of it is chance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd

FEW = 100
"""With fewer values on either side nothing is said."""
BINS = 10
_CHANCE = 0.001
_EMPTY = 1e-3  # so that a bin without a value has a logarithm
_EXPECTED = 10
_GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Distribution:
    """One figure, in the data set and in the journal.

    reference, journal   [m], [n] float64, or str where the figure is a kind
    reference_size       independent values among those of the reference, m or fewer
    """

    name: str
    reference: np.ndarray
    journal: np.ndarray
    reference_size: int

    @property
    def few(self) -> bool:
        """Whether there is too little to compare."""
        return min(len(self.reference), len(self.journal)) < FEW

    @property
    def is_kind(self) -> bool:
        """Whether the values are names, without an order."""
        return self.reference.dtype.kind not in "fi"


@dataclass(frozen=True)
class Distance:
    """PSI and KS distance (0 of kinds), and the values that chance alone exceeds once in a thousand comparisons."""

    psi: float
    psi_chance: float
    ks: float
    ks_chance: float

    @property
    def psi_beyond(self) -> float:
        """PSI, 0 where it may be chance."""
        return self.psi if self.psi > self.psi_chance else 0.0

    @property
    def ks_beyond(self) -> float:
        """KS distance, 0 where it may be chance."""
        return self.ks if self.ks > self.ks_chance else 0.0


def distance(found: Distribution) -> Distance:
    """How far the journal's values lie from the reference's.

    By chance alone PSI / (1/n + 1/m) is about chi-squared with as many degrees of freedom as bins but one (Yurdakul,
    Statistical Properties of Population Stability Index, 2018), and sqrt(nm / (n + m)) D has Kolmogorov's distribution.
    """
    from scipy.stats import chi2, ks_2samp, kstwobign

    spread = 1 / len(found.journal) + 1 / found.reference_size
    bins = len(np.unique(found.reference))
    bins = bins if found.is_kind else min(BINS, bins)
    psi_chance = float(chi2.ppf(1 - _CHANCE, bins - 1)) * spread if bins > 1 else 0.0
    if found.is_kind:
        return Distance(_psi(found), psi_chance, 0.0, 0.0)
    apart = float(ks_2samp(found.journal, found.reference, method="asymp").statistic)
    return Distance(_psi(found), psi_chance, apart, float(kstwobign.ppf(1 - _CHANCE)) * sqrt(spread))


def _psi(found: Distribution) -> float:
    from feature_engine.selection import DropHighPSIFeatures

    both = np.concatenate([found.reference, found.journal])
    of_journal = np.repeat([0.0, 1.0], [len(found.reference), len(found.journal)])
    frame = pd.DataFrame({"of_journal": of_journal, "value": pd.Series(both, dtype=object if found.is_kind else None)})
    selection = DropHighPSIFeatures(split_col="of_journal", cut_off=0.5, bins=BINS, variables=["value"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it tries whether names are dates
        return float(selection.fit(frame).psi_values_["value"])


def mixture(scores: np.ndarray, matching: np.ndarray, other: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of matching pairs that explains `scores` best, and what scores of such a mixture look like.

    How many of the pairs that are asked for do match is the clients' business, and no drift: a search asks for many
    that do not. The share is the one with the least PSI, in bins of both samples together; the mixture has as many
    values as `matching`.
    """
    edges = np.quantile(np.concatenate([matching, other]), np.linspace(0, 1, 2 * BINS + 1)[1:-1])
    asked, own, strange = (
        np.bincount(np.searchsorted(edges, sample), minlength=2 * BINS) / len(sample) + _EMPTY
        for sample in (scores, matching, other)
    )
    mixed = _GRID[:, None] * own + (1 - _GRID[:, None]) * strange
    share = float(_GRID[((asked - mixed) * np.log(asked / mixed)).sum(axis=1).argmin()])
    count = round(share * len(matching))
    parts = [_spread(matching, count), _spread(other, len(matching) - count)]
    return share, np.concatenate(parts)


def _spread(sample: np.ndarray, count: int) -> np.ndarray:
    """`count` values with the distribution of `sample`."""
    return np.quantile(sample, (np.arange(count) + 0.5) / count) if count else sample[:0]


def grouped(reference: np.ndarray, journal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both samples of kinds, with rare ones put together as 'cat +3', in the order of the reference's shares.

    A group has 2 % of the reference or more, and ten values or more to be expected in the journal: a group that happens
    to be empty would count for a great change. Kinds that the reference does not have join the rarest.
    """
    names, counts = np.unique(reference, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    least, left = max(0.02, _EXPECTED / max(1, len(journal))) * len(reference), len(reference)
    groups: list[list[str]] = [[]]
    inside = 0
    for name, count in zip(names[order].tolist(), counts[order].tolist(), strict=True):
        if inside >= least and left >= least:
            groups.append([])
            inside = 0
        groups[-1].append(name)
        inside, left = inside + count, left - count
    titles = [group[0] if len(group) == 1 else f"{group[0]} +{len(group) - 1}" for group in groups if group]
    title = {name: titles[place] for place, group in enumerate(groups) for name in group}
    first, second = (
        np.array([title.get(name, titles[-1]) for name in sample.tolist()], np.str_) for sample in (reference, journal)
    )
    return first, second
