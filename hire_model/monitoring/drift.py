"""Drift: compare the journal of a server with the reference, statistic by statistic, and check the distances."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from hire_model.monitoring.distances import (
    MIN_VALUES,
    Distance,
    SamplePair,
    fit_mixture,
    group_rare,
    measure_distance,
)
from hire_model.monitoring.journal import Line, read_lines
from hire_model.monitoring.reference import Reference

MAX_LINES = 20_000
"""How many of a model's newest journal lines are compared."""
NORM_FACTOR = 10.0
"""How far a norm may be from the reference's median, as the suite journal.json says."""
STATISTICS = {
    "score": "score",
    "words": "words of the sentence",
    "unknown": "share of unknown word pieces",
    "regions": "regions of the picture",
    "norm": "mean norm of the regions",
    "norm_low": "norm, 10th percentile",
    "norm_high": "norm, 90th percentile",
    "class": "class of a region",
}
"""What is compared, by the names of `Line` ('class' stands for `classes`), in words."""


class CheckResult(Protocol):
    """The result of one expectation; `expectations.results.ExpectationResult` has these attributes."""

    @property
    def table(self) -> str:
        """Name of the table that was checked."""

    @property
    def severity(self) -> str:
        """'error' or 'warning'."""

    @property
    def ok(self) -> bool:
        """Whether the expectation holds."""

    @property
    def message(self) -> str:
        """What is wrong, and in which rows; empty if nothing is."""


class RunSuite(Protocol):
    """Checks a frame against an expectation suite; `expectations.check.run_suite` is the implementation."""

    def __call__(
        self,
        suite: str,
        frame: pd.DataFrame,
        *,
        table: str,
        label: str,
        context: tuple[str, ...] = (),
        parameters: Mapping[str, float] | None = None,
    ) -> Sequence[CheckResult]:
        """Check `frame`.

        suite: name of the suite; table: name in the results; label: name in the messages; context: columns to show with
        a failed row; parameters: values for the suite's {"$PARAMETER": name}.
        """


@dataclass(frozen=True)
class StatisticDrift:
    """One statistic: both samples, their distance (None: too few values), and the results of the suite drift.json."""

    samples: SamplePair
    distance: Distance | None
    checks: Sequence[CheckResult]

    @property
    def verdict(self) -> str:
        """'too few', 'drift', 'moved' (a warning) or 'as learned'."""
        if self.distance is None:
            return "too few"
        failed = {check.severity for check in self.checks if not check.ok}
        return "drift" if "error" in failed else "moved" if failed else "as learned"

    def to_row(self) -> dict[str, str]:
        """Return a row for a table."""
        pair, apart = self.samples, self.distance
        return {
            "figure": STATISTICS[pair.name],
            "verdict": self.verdict,
            "pairs": f"{len(pair.journal):,}",
            "PSI": "" if apart is None else f"{apart.psi:.3f}",
            "PSI by chance": "" if apart is None else f"{apart.psi_chance:.3f}",
            "KS": "" if apart is None or pair.is_categorical else f"{apart.ks:.3f}",
            "KS by chance": "" if apart is None or pair.is_categorical else f"{apart.ks_chance:.3f}",
            "learned": _describe_values(pair.reference),
            "asked": _describe_values(pair.journal),
        }


@dataclass(frozen=True)
class Drift:
    """The result of a comparison.

    pairs       number of the model's lines in the journal
    matching    estimated share of matching pairs among them; None without scores
    statistics  one entry per statistic
    row_checks  the results of the suite journal.json on the single lines
    """

    pairs: int
    matching: float | None
    statistics: list[StatisticDrift]
    row_checks: Sequence[CheckResult]

    @cached_property
    def _checks(self) -> list[CheckResult]:
        return [*self.row_checks, *(check for one in self.statistics for check in one.checks)]

    @cached_property
    def failed(self) -> list[CheckResult]:
        """The failed checks of severity error."""
        return [check for check in self._checks if not check.ok and check.severity == "error"]

    @property
    def verdict(self) -> str:
        """'too few', 'drift' or 'no drift'."""
        if self.failed:
            return "drift"
        return "too few" if all(one.distance is None for one in self.statistics) else "no drift"

    def findings(self) -> list[str]:
        """Return the failed checks, errors first, a line each; a warning is left out where its table has an error."""
        warned = [check for check in self._checks if not check.ok and check.severity == "warning"]
        with_error = {check.table for check in self.failed}
        shown = [*self.failed, *(check for check in warned if check.table not in with_error)]
        return [f"{check.severity}: {check.message}" for check in shown]

    def summary(self) -> str:
        """Return one message: the verdict and the findings."""
        if self.verdict == "too few":
            return f"too few: {self.pairs} pairs of this model are in the journal; {MIN_VALUES} or more are compared"
        changed = [one for one in self.statistics if one.verdict in ("drift", "moved")]
        named = ", ".join(f"{STATISTICS[one.samples.name]} ({one.verdict})" for one in changed)
        return "\n".join([f"{self.verdict}, {self.pairs:,} pairs: {named or 'all as learned'}", *self.findings()])

    def rows(self) -> list[dict[str, str]]:
        """Return a row per statistic, for a table."""
        return [one.to_row() for one in self.statistics]


def read_newest(folder: Path, weights: str) -> list[Line]:
    """Read the newest lines of the journal in `folder` that the model with these weights (SHA-256) has scored.

    Raises HireError where there is no journal.
    """
    return list(deque((line for line in read_lines(folder) if line.weights == weights), MAX_LINES))


def compare(lines: Sequence[Line], reference: Reference, classes: Sequence[str], run_suite: RunSuite) -> Drift:
    """Compare a journal's lines with the reference. classes: the names of the class ids.

    With fewer than MIN_VALUES lines nothing is compared.
    """
    matching, samples = collect_samples(lines, reference, classes)
    if len(lines) < MIN_VALUES:
        return Drift(len(lines), None, [StatisticDrift(pair, None, []) for pair in samples], [])
    statistics = [_check_distance(pair, run_suite) for pair in samples]
    return Drift(len(lines), matching, statistics, _check_lines(lines, reference, len(classes), run_suite))


def collect_samples(
    lines: Sequence[Line], reference: Reference, classes: Sequence[str]
) -> tuple[float | None, list[SamplePair]]:
    """Return the estimated share of matching pairs, and the samples of all statistics."""
    scores, share, usual = _select_values(lines, "score"), None, reference.matching
    if len(scores):
        share, usual = fit_mixture(scores, reference.matching, reference.other)
    samples = [SamplePair("score", usual.astype(np.float64), scores, reference.images)]
    for name in list(STATISTICS)[1:-1]:
        learned = _select_values(reference.lines, name)
        samples.append(SamplePair(name, learned, _select_values(lines, name), len(learned)))
    learned, asked = group_rare(_draw_classes(reference.lines, classes), _draw_classes(lines, classes))
    samples.append(SamplePair("class", learned, asked, len(learned)))
    return share, samples


def _select_values(lines: Sequence[Line], name: str) -> np.ndarray:
    return np.array([value for line in lines if (value := getattr(line, name)) is not None], np.float64)


def _draw_classes(lines: Sequence[Line], classes: Sequence[str]) -> np.ndarray:
    """Draw the class of one region per picture at random, as the regions of a picture depend on each other."""
    rng, drawn = np.random.default_rng(0), []
    for line in lines:
        if line.classes:
            counts = np.array(list(line.classes.values()), np.float64)
            drawn.append(int(rng.choice(list(line.classes), p=counts / counts.sum())))
    return np.array([_name_class(number, classes) for number in drawn], np.str_)


def _name_class(number: int, classes: Sequence[str]) -> str:
    return "unknown" if number < 0 else classes[number] if number < len(classes) else f"class {number}"


def _check_distance(pair: SamplePair, run_suite: RunSuite) -> StatisticDrift:
    if pair.too_few:
        return StatisticDrift(pair, None, [])
    apart = measure_distance(pair)
    frame = pd.DataFrame({"psi": [apart.psi_beyond], "ks": [apart.ks_beyond]})
    return StatisticDrift(pair, apart, run_suite("drift", frame, table=pair.name, label=STATISTICS[pair.name]))


def _check_lines(
    lines: Sequence[Line], reference: Reference, classes: int, run_suite: RunSuite
) -> Sequence[CheckResult]:
    """Check the single lines against the suite journal.json. classes: the number of known class ids."""
    frame = pd.DataFrame([line.model_dump(exclude={"classes", "text"}) for line in lines])
    frame = frame.astype(dict.fromkeys(("norm", "unknown"), "float64"))
    frame["strange_classes"] = [
        None if line.classes is None else sum(count for number, count in line.classes.items() if number >= classes)
        for line in lines
    ]
    middle = float(np.median(_select_values(reference.lines, "norm")))
    parameters = {"norm_low": middle / NORM_FACTOR, "norm_high": middle * NORM_FACTOR}
    return run_suite("journal", frame, table="journal", label="journal", context=("time",), parameters=parameters)


def _describe_values(values: np.ndarray) -> str:
    """Return the median and the middle 80 % of numbers, or the three most frequent names."""
    if not len(values):
        return ""
    if values.dtype.kind not in "fi":
        names, counts = np.unique(values, return_counts=True)
        best = np.argsort(-counts, kind="stable")[:3]
        return ", ".join(f"{names[row]} {counts[row] / len(values):.0%}" for row in best)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"
