"""The promotion gate: a pure function from measured evidence to a decision with its reasons.

All rules are checked, even after one has failed, so that a decision lists everything to fix. A limit of 0 means no
limit: the figure is only reported. A rule with a limit fails if its figure was not measured.

Field names of the models are the keys of decision.json; `RuleResult.name` is part of a tag of the version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from hire_model.evaluation.behaviour import Behaviour
from hire_model.evaluation.calibration import Calibration
from hire_model.evaluation.result import Interval
from hire_model.evaluation.speed import Speed
from hire_model.settings import GateSettings

CONTRAST_TEXTS = {  # changed captions that the true caption must score above
    "shuffle": "shuffled words",
    "swap": "swapped subject and object",
    "colour": "swapped colours",
    "negation": "its negation",
}
KINDS = tuple(CONTRAST_TEXTS)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Conditions(_Frozen):
    """The data and the protocol of a measurement. Two figures are compared only if all fields are equal."""

    data: str
    digest: str
    split: str
    images: int
    protocol: str


class Evidence(_Frozen):
    """What was measured of a version.

    Attributes:
        version: number of the version.
        ground: conditions of the measurement.
        figures: "full/rsum", "full/t2i_r1", ... of each protocol, as in `Result.metrics`.
        behaviour: results by kind of contrast; a kind is missing if the data have too few captions for it.
        calibration: None if not measured, like speed and megabytes.
        megabytes: size of the model folder in 10^6 bytes.
        facts: facts about the code and the machine.
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
    """rSum of the challenger and of the champion on the same images.

    Attributes:
        champion: number of the champion's version.
        ground: conditions of both measurements.
        interval: 95 % interval of the difference, by a paired bootstrap over the images.
        champion_scored: True if this gate scored the champion; False if its ranks were stored, or if it is the same
            version.
    """

    champion: str
    ground: Conditions
    challenger_rsum: float
    champion_rsum: float
    interval: Interval
    champion_scored: bool

    @property
    def difference(self) -> float:
        """Return the rSum of the challenger minus that of the champion."""
        return self.challenger_rsum - self.champion_rsum


class RuleResult(_Frozen):
    """The result of one rule.

    Attributes:
        name: identifies the rule.
        ok: whether the rule holds; also true if there is no limit.
        measured: the figure, as text.
        limit: the limit, as text; "" if there is none.
        words: the reason, as text.
    """

    name: str
    ok: bool
    measured: str
    limit: str
    words: str

    @property
    def verdict(self) -> str:
        """Return 'failed', 'passed', or 'reported' for a figure without a limit."""
        return "failed" if not self.ok else "passed" if self.limit else "reported"


class Decision(_Frozen):
    """Whether a version may become the champion, and why. champion: its number, or "" if there is none."""

    version: str
    champion: str = ""
    checks: tuple[RuleResult, ...]
    evidence: Evidence
    comparison: Comparison | None = None

    @property
    def passed(self) -> bool:
        """Return whether no rule failed."""
        return not self.failed_rules()

    def failed_rules(self) -> tuple[RuleResult, ...]:
        """Return the results of the rules that failed."""
        return tuple(result for result in self.checks if not result.ok)

    def reasons(self) -> list[str]:
        """Return a line for each rule that failed."""
        return [f"{result.name}: {result.words}" for result in self.failed_rules()]

    def summary(self) -> str:
        """Return the decision in a sentence."""
        against = f"against version {self.champion}" if self.champion else "with no champion to compare with"
        ground = self.evidence.ground
        where = f"on {ground.data} ({ground.split}, {ground.images} images, digest {ground.digest[:16]}), {against}"
        limited = sum(result.verdict != "reported" for result in self.checks)
        if self.passed:
            return f"Version {self.version} passed all {limited} rules {where}."
        return f"Version {self.version} failed {len(self.failed_rules())} of {limited} rules {where}."

    def rows(self) -> list[dict[str, str]]:
        """Return a row per rule, for a table."""
        return [
            {"rule": result.name, "measured": result.measured, "limit": result.limit, "verdict": result.verdict}
            for result in self.checks
        ]

    def markdown(self) -> str:
        """Return the whole decision as Markdown."""
        headings = list(self.rows()[0])
        table = [headings, ["---"] * len(headings), *(list(row.values()) for row in self.rows())]
        verdict = "passed" if self.passed else "did not pass"
        lines = [f"# Gate: version {self.version} {verdict}", "", self.summary(), ""]
        lines += [f"- {reason}" for reason in self.reasons()] + ([""] if not self.passed else [])
        lines += [f"| {' | '.join(cells)} |" for cells in table]
        return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in self.evidence.facts.items())]) + "\n"


def decide(evidence: Evidence, comparison: Comparison | None, rules: GateSettings) -> Decision:
    """Check `evidence` against `rules`. comparison: with the champion, or None if there is no champion yet."""
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
    for key, minimum in minimums.items():
        yield _check_minimum(f"recall {key}", figures.get(key), minimum, "{:.1f}")


def _check_champion(ground: Conditions, comparison: Comparison | None, max_drop: float) -> RuleResult:
    """Fail if the whole interval of the difference is below 0, or the loss exceeds `max_drop`."""
    name = "no worse than the champion"
    if comparison is None:
        return RuleResult(
            name=name, ok=True, measured="no champion", limit="", words="there is no champion to compare with yet"
        )
    against = f"version {comparison.champion}"
    if comparison.ground != ground:
        words = f"{against} was measured with other data, split or protocol: {comparison.ground} instead of {ground}"
        return RuleResult(name=name, ok=False, measured="not comparable", limit="the same data", words=words)
    low, high = comparison.interval
    measured = f"{comparison.difference:+.1f} rSum ({low:+.1f} to {high:+.1f})"
    limit = "interval reaches 0" + (f", loss at most {max_drop:g}" if max_drop else "")
    faults = []
    if high < 0:
        faults.append("the whole interval is below 0")
    if max_drop and comparison.difference < -max_drop:
        faults.append(f"the loss is more than {max_drop:g} points")
    ours, theirs = comparison.challenger_rsum, comparison.champion_rsum
    words = f"rSum {ours:.1f}, {against} has {theirs:.1f}: {measured}" + "".join(f"; {f}" for f in faults)
    return RuleResult(name=name, ok=not faults, measured=measured, limit=limit, words=words)


def _check_behaviour(measured: Mapping[str, Behaviour], rules: GateSettings) -> Iterator[RuleResult]:
    for kind in KINDS:
        behaviour, minimum = measured.get(kind), getattr(rules, f"min_{kind}")
        share = behaviour.share if behaviour else None
        result = _check_minimum(f"true caption above {CONTRAST_TEXTS[kind]}", share, minimum, "{:.1f} %")
        if behaviour:
            low, high = behaviour.interval
            text = f"{result.measured} ({low:.1f} to {high:.1f}) of {behaviour.captions} captions"
            result = result.model_copy(update={"measured": text})
        yield result


def _check_calibration(measured: Calibration | None, max_ece: float) -> RuleResult:
    return _check_maximum("calibration error", measured.ece if measured else None, max_ece, "{:.3f}")


def _check_costs(evidence: Evidence, rules: GateSettings) -> Iterator[RuleResult]:
    speed = evidence.speed
    yield _check_maximum("time for a pair", speed.pair_ms if speed else None, rules.max_pair_ms, "{:.0f} ms")
    query = _check_maximum("time for a query", speed.query_ms if speed else None, rules.max_query_ms, "{:.0f} ms")
    yield query.model_copy(update={"measured": f"{query.measured}, {speed.gallery} images"}) if speed else query
    yield _check_maximum("size", evidence.megabytes, rules.max_mb, "{:.0f} MB")


def _check_minimum(name: str, value: float | None, minimum: float, form: str) -> RuleResult:
    return _make_result(name, value, minimum, form, "at least", value is not None and value >= minimum)


def _check_maximum(name: str, value: float | None, maximum: float, form: str) -> RuleResult:
    return _make_result(name, value, maximum, form, "at most", value is not None and value <= maximum)


def _make_result(name: str, value: float | None, bound: float, form: str, relation: str, holds: bool) -> RuleResult:
    """Make the result of a rule. form: format of the figure; bound: 0 for no limit, then the rule always holds."""
    measured = "not measured" if value is None else form.format(value)
    limit = f"{relation} {form.format(bound)}" if bound else ""
    reason = f"{measured}, expected {limit}" if limit else f"{measured}, no limit is set"
    return RuleResult(name=name, ok=holds or not bound, measured=measured, limit=limit, words=reason)
