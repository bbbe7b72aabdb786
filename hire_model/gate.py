"""The promotion gate: a pure function from measured evidence to a decision with its reasons.

All rules are checked, even after one has failed, so that one decision lists everything to fix. A limit of 0 means no
limit: the figure is only reported. A rule with a limit fails if its figure was not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from hire_model.evaluation.behaviour import Behaviour
from hire_model.evaluation.calibration import Calibration
from hire_model.evaluation.result import Interval
from hire_model.evaluation.speed import Speed
from hire_model.settings import GateSettings

KINDS = ("shuffle", "swap", "colour", "negation")
CHANGES = {
    "shuffle": "its words shuffled",
    "swap": "subject and object exchanged",
    "colour": "two colours exchanged",
    "negation": "its negation",
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Conditions(_Frozen):
    """The data and protocol of a measurement; two figures are compared only if all of these are equal."""

    data: str
    digest: str
    split: str
    images: int
    protocol: str


class Evidence(_Frozen):
    """What was measured of one version. `ground` holds the conditions of the measurement.

    figures    as of `Result.metrics`: "full/rsum", "full/t2i_r1", ... of each protocol
    behaviour  by kind of contrast; a kind is missing if the data have too few captions for it
    megabytes  10^6 bytes of the model folder
    """

    version: str
    ground: Conditions
    figures: dict[str, float]
    behaviour: dict[str, Behaviour] = {}
    calibration: Calibration | None = None
    speed: Speed | None = None
    megabytes: float | None = None
    facts: dict[str, str] = {}


class Comparison(_Frozen):
    """Challenger less champion in rSum, with the interval of a paired bootstrap over the same images."""

    champion: str
    ground: Conditions
    challenger_rsum: float
    champion_rsum: float
    interval: Interval
    champion_scored: bool  # False: an earlier gate stored its ranks under the same conditions

    @property
    def difference(self) -> float:
        """rSum of the challenger less that of the champion."""
        return self.challenger_rsum - self.champion_rsum


class RuleResult(_Frozen):
    """The result of one rule: whether it holds, what was measured, and its limit ("" for none)."""

    name: str
    ok: bool
    measured: str
    limit: str
    words: str

    @property
    def verdict(self) -> str:
        """'failed', 'passed', or 'reported' for a figure without a limit."""
        return "failed" if not self.ok else "passed" if self.limit else "reported"


class Decision(_Frozen):
    """Whether a version may become the champion, and why."""

    version: str
    champion: str = ""
    checks: tuple[RuleResult, ...]
    evidence: Evidence
    comparison: Comparison | None = None

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return not self.failed_rules()

    def failed_rules(self) -> tuple[RuleResult, ...]:
        """Return the results of the rules that failed."""
        return tuple(result for result in self.checks if not result.ok)

    def reasons(self) -> list[str]:
        """Return a line for each rule that failed."""
        return [f"{result.name}: {result.words}" for result in self.failed_rules()]

    def summary(self) -> str:
        """Return the decision in a sentence."""
        against = f"against version {self.champion}" if self.champion else "with no champion to beat"
        ground = self.evidence.ground
        where = f"on {ground.data} ({ground.split}, {ground.images} images, digest {ground.digest[:16]}), {against}"
        limited = sum(result.verdict != "reported" for result in self.checks)
        if self.passed:
            return f"Version {self.version} passed all {limited} checks {where}."
        return f"Version {self.version} failed {len(self.failed_rules())} of {limited} checks {where}."

    def rows(self) -> list[dict[str, str]]:
        """Return a row per rule, for a table."""
        return [
            {"rule": result.name, "measured": result.measured, "asked for": result.limit, "verdict": result.verdict}
            for result in self.checks
        ]

    def markdown(self) -> str:
        """Return the whole decision as Markdown."""
        heads = list(self.rows()[0])
        table = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in self.rows())]
        verdict = "passed" if self.passed else "did not pass"
        lines = [f"# Gate: version {self.version} {verdict}", "", self.summary(), ""]
        lines += [f"- {reason}" for reason in self.reasons()] + ([""] if not self.passed else [])
        lines += [f"| {' | '.join(cells)} |" for cells in table]
        return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in self.evidence.facts.items())]) + "\n"


def decide(evidence: Evidence, comparison: Comparison | None, rules: GateSettings) -> Decision:
    """Check `evidence` against `rules`. comparison: with the champion; None if there is none yet."""
    checks = (
        *_check_recall(evidence.figures, rules.minimums),
        _check_champion(evidence.ground, comparison, rules.max_drop),
        *_check_behaviour(evidence.behaviour, rules),
        _check_calibration(evidence.calibration, rules.max_ece),
        *_check_costs(evidence, rules),
    )
    champion = comparison.champion if comparison else ""
    return Decision(
        version=evidence.version, champion=champion, checks=checks, evidence=evidence, comparison=comparison
    )


def _check_recall(figures: Mapping[str, float], minimums: Mapping[str, float]) -> Iterator[RuleResult]:
    for key, least in minimums.items():
        yield _at_least(f"recall {key}", figures.get(key), least, "{:.1f}")


def _check_champion(ground: Conditions, comparison: Comparison | None, max_drop: float) -> RuleResult:
    """Fail if the whole interval of the difference is below zero, or the loss itself exceeds `max_drop`."""
    name = "no worse than the champion"
    if comparison is None:
        return RuleResult(
            name=name, ok=True, measured="no champion", limit="", words="there is no champion to beat yet"
        )
    against = f"version {comparison.champion}"
    if comparison.ground != ground:
        words = f"{against} was measured on other data, split or protocol: {comparison.ground} instead of {ground}"
        return RuleResult(name=name, ok=False, measured="not comparable", limit="the same data", words=words)
    low, high = comparison.interval
    measured = f"{comparison.difference:+.1f} rSum ({low:+.1f} to {high:+.1f})"
    limit = "an interval that reaches 0" + (f", a loss of at most {max_drop:g}" if max_drop else "")
    faults = []
    if high < 0:
        faults.append("it stays worse when the images are drawn again")
    if max_drop and comparison.difference < -max_drop:
        faults.append(f"it lost more than {max_drop:g} points")
    ours, theirs = comparison.challenger_rsum, comparison.champion_rsum
    words = f"rSum {ours:.1f} against {theirs:.1f} of {against}: {measured}" + "".join(f"; {f}" for f in faults)
    return RuleResult(name=name, ok=not faults, measured=measured, limit=limit, words=words)


def _check_behaviour(found: Mapping[str, Behaviour], rules: GateSettings) -> Iterator[RuleResult]:
    for kind in KINDS:
        share = found[kind].share if kind in found else None
        check = _at_least(f"above {CHANGES[kind]}", share, getattr(rules, f"min_{kind}"), "{:.1f} %")
        if kind in found:
            low, high = found[kind].interval
            note = f"{check.measured} ({low:.1f} to {high:.1f}) of {found[kind].captions} captions"
            check = check.model_copy(update={"measured": note})
        yield check


def _check_calibration(found: Calibration | None, max_ece: float) -> RuleResult:
    return _at_most("calibration error", found.ece if found else None, max_ece, "{:.3f}")


def _check_costs(evidence: Evidence, rules: GateSettings) -> Iterator[RuleResult]:
    timed = evidence.speed
    yield _at_most("time for a pair", timed.pair_ms if timed else None, rules.max_pair_ms, "{:.0f} ms")
    query = _at_most("time for a query", timed.query_ms if timed else None, rules.max_query_ms, "{:.0f} ms")
    yield query.model_copy(update={"measured": f"{query.measured}, {timed.gallery} images"}) if timed else query
    yield _at_most("size", evidence.megabytes, rules.max_mb, "{:.0f} MB")


def _at_least(name: str, value: float | None, least: float, form: str) -> RuleResult:
    return _bounded(name, value, least, form, "at least", value is not None and value >= least)


def _at_most(name: str, value: float | None, most: float, form: str) -> RuleResult:
    return _bounded(name, value, most, form, "at most", value is not None and value <= most)


def _bounded(name: str, value: float | None, bound: float, form: str, words: str, holds: bool) -> RuleResult:
    measured = "not measured" if value is None else form.format(value)
    limit = f"{words} {form.format(bound)}" if bound else ""
    says = f"{measured}, asked for is {limit}" if limit else f"{measured}, no limit is set"
    return RuleResult(name=name, ok=holds or not bound, measured=measured, limit=limit, words=says)
