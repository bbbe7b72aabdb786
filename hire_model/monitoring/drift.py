"""Measure drift: compare the journal of a server with the reference and check the distance of each statistic."""

from __future__ import annotations

from collections import Counter, deque
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
"""Maximum number of a model's newest journal lines that are compared."""
NORM_FACTOR = 10.0
"""A norm may differ from the reference's median by this factor (suite journal.json)."""
STATISTICS = {
    "score": "score",
    "words": "words of the text",
    "unknown": "share of unknown word pieces",
    "regions": "regions of the image",
    "norm": "mean norm of the regions",
    "norm_low": "norm, 10th percentile",
    "norm_high": "norm, 90th percentile",
    "class": "class of a region",
}
"""The compared statistics: attribute of `Line` ('class' for `classes`) and description."""


class ExpectationResult(Protocol):
    """The result of one expectation; `expectations.results.ExpectationResult` implements it."""

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
        """What is wrong, and in which rows; empty if the expectation holds."""


class RunSuite(Protocol):
    """Checks a frame against an expectation suite; `expectations.check.run_suite` implements it."""

    def __call__(
        self,
        suite: str,
        frame: pd.DataFrame,
        *,
        table: str,
        label: str,
        context: tuple[str, ...] = (),
        parameters: Mapping[str, float] | None = None,
    ) -> Sequence[ExpectationResult]:
        """Check `frame`.

        Args:
            suite: Name of the suite.
            frame: The rows to check.
            table: Name of the table in the results.
            label: Name of the table in the messages.
            context: Columns to show with a failed row.
            parameters: Values for the suite's {"$PARAMETER": name}.
        """


@dataclass(frozen=True)
class StatisticDrift:
    """One statistic: both samples, their distance (None: too few values), and the results of the suite drift.json."""

    samples: SamplePair
    distance: Distance | None
    results: Sequence[ExpectationResult]

    @property
    def verdict(self) -> str:
        """'too few', 'drift', 'warning' or 'unchanged'."""
        if self.distance is None:
            return "too few"
        failed = {result.severity for result in self.results if not result.ok}
        return "drift" if "error" in failed else "warning" if failed else "unchanged"

    def to_row(self) -> dict[str, str]:
        """Return a row for a table."""
        pair, distance = self.samples, self.distance
        return {
            "statistic": STATISTICS[pair.name],
            "verdict": self.verdict,
            "pairs": f"{len(pair.journal):,}",
            "PSI": "" if distance is None else f"{distance.psi:.3f}",
            "PSI by chance": "" if distance is None else f"{distance.psi_chance:.3f}",
            "KS": "" if distance is None or pair.is_categorical else f"{distance.ks:.3f}",
            "KS by chance": "" if distance is None or pair.is_categorical else f"{distance.ks_chance:.3f}",
            "training data": _describe_values(pair.reference),
            "journal": _describe_values(pair.journal),
        }


@dataclass(frozen=True)
class Drift:
    """The result of a comparison.

    pairs         number of the model's lines in the journal
    matching      estimated share of matching pairs among them; None without scores
    statistics    one entry per statistic
    line_results  the results of the suite journal.json on the single lines
    """

    pairs: int
    matching: float | None
    statistics: list[StatisticDrift]
    line_results: Sequence[ExpectationResult]

    @cached_property
    def _results(self) -> list[ExpectationResult]:
        return [*self.line_results, *(result for statistic in self.statistics for result in statistic.results)]

    @cached_property
    def failed(self) -> list[ExpectationResult]:
        """The failed results of severity error."""
        return [result for result in self._results if not result.ok and result.severity == "error"]

    @property
    def verdict(self) -> str:
        """'too few', 'drift' or 'no drift'."""
        if self.failed:
            return "drift"
        return "too few" if all(statistic.distance is None for statistic in self.statistics) else "no drift"

    def findings(self) -> list[str]:
        """Return a line per failed expectation, errors first; warnings of a table that has an error are omitted."""
        warnings = [result for result in self._results if not result.ok and result.severity == "warning"]
        with_error = {result.table for result in self.failed}
        shown = [*self.failed, *(result for result in warnings if result.table not in with_error)]
        return [f"{result.severity}: {result.message}" for result in shown]

    def summary(self) -> str:
        """Return one message: the verdict and the findings."""
        if self.verdict == "too few":
            return f"too few: {self.pairs} pairs of this model in the journal; at least {MIN_VALUES} are needed"
        changed = [statistic for statistic in self.statistics if statistic.verdict in ("drift", "warning")]
        names = ", ".join(f"{STATISTICS[statistic.samples.name]} ({statistic.verdict})" for statistic in changed)
        return "\n".join([f"{self.verdict}, {self.pairs:,} pairs: {names or 'all unchanged'}", *self.findings()])

    def rows(self) -> list[dict[str, str]]:
        """Return a table row per statistic."""
        return [statistic.to_row() for statistic in self.statistics]


def read_newest_lines(folder: Path, weights: str) -> tuple[list[Line], Counter[str]]:
    """Read the newest journal lines in `folder` that the model with these weights (SHA-256) has scored.

    Also return the number of lines of each other version, by its number; "" for models that are not registered. Raises
    HireError if there is no journal.
    """
    lines, others = deque[Line](maxlen=MAX_LINES), Counter[str]()
    for line in read_lines(folder):
        if line.weights == weights:
            lines.append(line)
        else:
            others[line.version] += 1
    return list(lines), others


def measure_drift(lines: Sequence[Line], reference: Reference, classes: Sequence[str], run_suite: RunSuite) -> Drift:
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
    """Return the estimated share of matching pairs (None without scores), and the samples of all statistics."""
    scores, share, expected = _select_values(lines, "score"), None, reference.matching
    if len(scores):
        share, expected = fit_mixture(scores, reference.matching, reference.non_matching)
    samples = [SamplePair("score", expected.astype(np.float64), scores, reference.images)]
    for name in list(STATISTICS)[1:-1]:
        expected = _select_values(reference.lines, name)
        samples.append(SamplePair(name, expected, _select_values(lines, name), len(expected)))
    expected, observed = group_rare(_draw_classes(reference.lines, classes), _draw_classes(lines, classes))
    samples.append(SamplePair("class", expected, observed, len(expected)))
    return share, samples


def _select_values(lines: Sequence[Line], name: str) -> np.ndarray:
    return np.array([value for line in lines if (value := getattr(line, name)) is not None], np.float64)


def _draw_classes(lines: Sequence[Line], classes: Sequence[str]) -> np.ndarray:
    """Draw the class of one region per image at random, as the regions of an image depend on each other."""
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
    distance = measure_distance(pair)
    frame = pd.DataFrame({"psi": [distance.psi_beyond], "ks": [distance.ks_beyond]})
    return StatisticDrift(pair, distance, run_suite("drift", frame, table=pair.name, label=STATISTICS[pair.name]))


def _check_lines(
    lines: Sequence[Line], reference: Reference, classes: int, run_suite: RunSuite
) -> Sequence[ExpectationResult]:
    """Check the single lines against the suite journal.json. classes: the number of class ids in the vocabulary."""
    frame = pd.DataFrame([line.model_dump(exclude={"classes", "text"}) for line in lines])
    frame = frame.astype(dict.fromkeys(("norm", "unknown"), "float64"))
    frame["strange_classes"] = [
        None if line.classes is None else sum(count for number, count in line.classes.items() if number >= classes)
        for line in lines
    ]
    median = float(np.median(_select_values(reference.lines, "norm")))
    parameters = {"norm_low": median / NORM_FACTOR, "norm_high": median * NORM_FACTOR}
    return run_suite("journal", frame, table="journal", label="journal", context=("time",), parameters=parameters)


def _describe_values(values: np.ndarray) -> str:
    """Describe numbers by median and middle 80 %, names by the three most frequent ones."""
    if not len(values):
        return ""
    if values.dtype.kind not in "fi":
        names, counts = np.unique(values, return_counts=True)
        most_frequent = np.argsort(-counts, kind="stable")[:3]
        return ", ".join(f"{names[k]} {counts[k] / len(values):.0%}" for k in most_frequent)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"
