"""Does what a server is asked still look like what its model has learned? A journal against a data set, by suites."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from expectations.check import Check
from expectations.distributions import FEW, Distance, Distribution, distance, grouped, mixture
from expectations.suites import OURS
from expectations.tables import NORM_FACTOR, Table
from hire_model.monitoring import journal
from hire_model.monitoring.journal import Line
from hire_model.monitoring.reference import Reference

NEWEST = 20_000
"""So many of a model's last pairs are compared."""
FIGURES = {
    "score": "score",
    "words": "words of the sentence",
    "unknown": "share of unknown word pieces",
    "regions": "regions of the picture",
    "norm": "mean norm of the regions",
    "norm_low": "norm, 10th percentile",
    "norm_high": "norm, 90th percentile",
    "class": "class of a region",
}


@dataclass(frozen=True)
class Compared:
    """A figure, how far its values lie apart (None: too few to say), and what the suite drift.json says of that."""

    figure: Distribution
    distance: Distance | None
    checks: list[Check]

    @property
    def verdict(self) -> str:
        """'too few', 'drift', 'moved' (a warning) or 'as learned'."""
        if self.distance is None:
            return "too few"
        failed = {check.severity for check in self.checks if not check.ok}
        return "drift" if "error" in failed else "moved" if failed else "as learned"


@dataclass(frozen=True)
class Drift:
    """What a comparison found. pairs: of the model, in the journal; matching: the share that seems to match."""

    pairs: int
    matching: float | None
    compared: list[Compared]
    row_checks: list[Check]

    @cached_property
    def failed(self) -> list[Check]:
        """What failed with severity error."""
        return [check for check in self._checks if not check.ok and check.severity == "error"]

    @cached_property
    def _checks(self) -> list[Check]:
        return self.row_checks + [check for one in self.compared for check in one.checks]

    @property
    def verdict(self) -> str:
        """'too few', 'drift' or 'no drift'."""
        if self.failed:
            return "drift"
        return "too few" if all(one.distance is None for one in self.compared) else "no drift"

    def findings(self) -> list[str]:
        """What failed, errors first, a line each; of one distance the error stands for its warning too."""
        warned = [check for check in self._checks if not check.ok and check.severity == "warning"]
        told = {check.table for check in self.failed}
        return [f"{c.severity}: {c.message}" for c in [*self.failed, *(w for w in warned if w.table not in told)]]

    def summary(self) -> str:
        """One message: the verdict, and what it rests on."""
        if self.verdict == "too few":
            return f"too few: {self.pairs} pairs of this model are in the journal; {FEW} or more are compared"
        parted = ", ".join(f"{FIGURES[one.figure.name]} ({one.verdict})" for one in self.compared if _tells(one))
        return "\n".join([f"{self.verdict}, {self.pairs:,} pairs: {parted or 'all as learned'}", *self.findings()])

    def rows(self) -> list[dict[str, str]]:
        """A row per figure, for a table."""
        return [_row(one) for one in self.compared]


def newest(folder: Path, weights: str) -> list[Line]:
    """The last lines of the journal in `folder` that the model with these weights (SHA-256) has scored.

    Raises HireError where there is no journal.
    """
    return list(deque((line for line in journal.read(folder) if line.weights == weights), NEWEST))


def compare(lines: Sequence[Line], reference: Reference, classes: Sequence[str]) -> Drift:
    """Compare a journal's lines with the reference. classes: the names of the class ids.

    With fewer than FEW pairs nothing is compared.
    """
    matching, figures = _figures(lines, reference, classes)
    if len(lines) < FEW:
        return Drift(len(lines), None, [Compared(figure, None, []) for figure in figures], [])
    compared = [_compared(figure) for figure in figures]
    return Drift(len(lines), matching, compared, _judge_rows(lines, reference, len(classes)))


def _figures(
    lines: Sequence[Line], reference: Reference, classes: Sequence[str]
) -> tuple[float | None, list[Distribution]]:
    """The share of matching pairs, and all figures of both sides."""
    scores, share, usual = _values(lines, "score"), None, reference.matching
    if len(scores):
        share, usual = mixture(scores, reference.matching, reference.other)
    figures = [Distribution("score", usual.astype(np.float64), scores, reference.images)]
    for name in list(FIGURES)[1:-1]:
        learned = _values(reference.lines, name)
        figures.append(Distribution(name, learned, _values(lines, name), len(learned)))
    learned, asked = grouped(_kinds(reference.lines, classes), _kinds(lines, classes))
    figures.append(Distribution("class", learned, asked, len(learned)))
    return share, figures


def _values(lines: Sequence[Line], name: str) -> np.ndarray:
    return np.array([value for line in lines if (value := getattr(line, name)) is not None], np.float64)


def _kinds(lines: Sequence[Line], classes: Sequence[str]) -> np.ndarray:
    """The class of one region of each picture, by lot: the regions of a picture are not independent of each other."""
    rng, kinds = np.random.default_rng(0), []
    for line in lines:
        if line.classes:
            counts = np.array(list(line.classes.values()), np.float64)
            kinds.append(int(rng.choice(list(line.classes), p=counts / counts.sum())))
    return np.array([_class_name(kind, classes) for kind in kinds], np.str_)


def _class_name(kind: int, classes: Sequence[str]) -> str:
    return "unknown" if kind < 0 else classes[kind] if kind < len(classes) else f"class {kind}"


def _compared(figure: Distribution) -> Compared:
    if figure.few:
        return Compared(figure, None, [])
    apart = distance(figure)
    frame = pd.DataFrame({"psi": [apart.psi_beyond], "ks": [apart.ks_beyond]})
    table = Table(figure.name, FIGURES[figure.name], frame)
    return Compared(figure, apart, _judged(table, "drift", {}))


def _judge_rows(lines: Sequence[Line], reference: Reference, classes: int) -> list[Check]:
    """What the suite journal.json says of the single lines."""
    frame = pd.DataFrame([line.model_dump(exclude={"classes", "text"}) for line in lines])
    frame = frame.astype(dict.fromkeys(("norm", "unknown"), "float64"))
    frame["strange_classes"] = [
        None if line.classes is None else sum(count for kind, count in line.classes.items() if kind >= classes)
        for line in lines
    ]
    middle = float(np.median(_values(reference.lines, "norm")))
    parameters = {"norm_low": middle / NORM_FACTOR, "norm_high": middle * NORM_FACTOR}
    return _judged(Table("journal", "journal", frame, ("time",)), "journal", parameters)


def _judged(table: Table, suite: str, parameters: dict[str, float]) -> list[Check]:
    from expectations.judge import Judge  # takes seconds to import

    return Judge().judge(table, OURS / f"{suite}.json", parameters)


def _tells(one: Compared) -> bool:
    return one.verdict in ("drift", "moved")


def _row(one: Compared) -> dict[str, str]:
    figure, apart = one.figure, one.distance
    return {
        "figure": FIGURES[figure.name],
        "verdict": one.verdict,
        "pairs": f"{len(figure.journal):,}",
        "PSI": "" if apart is None else f"{apart.psi:.3f}",
        "PSI by chance": "" if apart is None else f"{apart.psi_chance:.3f}",
        "KS": "" if apart is None or figure.is_kind else f"{apart.ks:.3f}",
        "KS by chance": "" if apart is None or figure.is_kind else f"{apart.ks_chance:.3f}",
        "learned": _typical(figure.reference),
        "asked": _typical(figure.journal),
    }


def _typical(values: np.ndarray) -> str:
    """The median and where the middle 80 % lie; the three most frequent kinds."""
    if not len(values):
        return ""
    if values.dtype.kind not in "fi":
        names, counts = np.unique(values, return_counts=True)
        best = np.argsort(-counts, kind="stable")[:3]
        return ", ".join(f"{names[row]} {counts[row] / len(values):.0%}" for row in best)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"
