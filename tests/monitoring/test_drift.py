"""Comparing a journal with the reference, with values drawn from known distributions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from expectations.check import run_suite
from expectations.results import ExpectationResult
from expectations.suites import SUITE_FOLDER
from hire_model.monitoring.distances import (
    MIN_VALUES,
    SamplePair,
    compute_psi,
    fit_mixture,
    group_rare,
    measure_distance,
)
from hire_model.monitoring.drift import Drift, measure_drift
from hire_model.monitoring.journal import Line
from hire_model.monitoring.reference import Reference

pytestmark = pytest.mark.slow

CLASSES = [f"thing {i}" for i in range(30)]
_WEIGHTS = 1 - np.arange(30) / 30
CLASS_SHARES = _WEIGHTS / _WEIGHTS.sum()


def draw(rng: np.random.Generator, count: int, share: float = 0.3) -> list[Line]:
    """Draw lines of usual traffic, in which `share` of the pairs match."""
    matching = rng.random(count) < share
    scores = np.where(matching, rng.normal(0.8, 0.15, count), rng.normal(0.1, 0.2, count))
    lines = []
    for score in scores:
        norms = np.sort(rng.normal(20, 2, 12))
        numbers, counts = np.unique(rng.choice(30, 12, p=CLASS_SHARES), return_counts=True)
        lines.append(
            Line(
                score=score,
                words=int(rng.poisson(9)) + 1,
                unknown=max(0.0, rng.normal(-0.1, 0.1)),
                source="upload",
                regions=int(rng.integers(5, 36)),
                norm=norms.mean(),
                norm_low=norms[1],
                norm_high=norms[-2],
                classes=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
            )
        )
    return lines


def run_plainly(
    suite: str,
    frame: pd.DataFrame,
    *,
    table: str,
    label: str,
    context: tuple[str, ...] = (),
    parameters: Mapping[str, float] | None = None,
) -> list[ExpectationResult]:
    """Run a suite without Great Expectations, which takes a second or more per comparison."""
    results = []
    for item in json.loads((SUITE_FOLDER / f"{suite}.json").read_text())["expectations"]:
        kwargs = item["kwargs"]
        values = frame[kwargs["column"]].dropna().astype(float)
        if "value_set" in kwargs:
            good = values.isin(kwargs["value_set"])
        else:
            low, high = (
                (parameters or {})[end["$PARAMETER"]] if isinstance(end, dict) else end
                for end in (kwargs["min_value"], kwargs["max_value"])
            )
            good = values.between(low, high, inclusive="left" if kwargs.get("strict_max") else "both")
        ok = not len(values) or bool(good.mean() >= kwargs.get("mostly", 1.0))
        severity = "error" if item["severity"] == "critical" else "warning"
        message = "" if ok else f"{label}: expected that {item['description']}"
        results.append(ExpectationResult(table, item["description"], severity, ok, int((~good).sum()), message))
    return results


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(99)
    return Reference(draw(rng, 2000), rng.normal(0.8, 0.15, 1000), rng.normal(0.1, 0.2, 1000), 1000)


def get_verdicts(drift: Drift) -> dict[str, str]:
    return {statistic.samples.name: statistic.verdict for statistic in drift.statistics}


@pytest.mark.parametrize(("seed", "count", "share"), [(0, 100, 0.3), (1, 150, 1.0), (2, 1000, 0.02), (3, 4000, 0.5)])
def test_usual_traffic_is_no_drift(seed: int, count: int, share: float, reference: Reference) -> None:
    drift = measure_drift(draw(np.random.default_rng(seed), count, share), reference, CLASSES, run_plainly)
    assert drift.verdict == "no drift", drift.summary()
    assert set(get_verdicts(drift).values()) == {"unchanged"}, drift.summary()
    assert drift.matching == pytest.approx(share, abs=0.15)


PLANTED: dict[str, tuple[str, Callable[[Line], dict[str, object]]]] = {
    "scores that do not fit any mixture": ("score", lambda line: {"score": 0.45 + 0.1 * (line.score or 0)}),
    "longer texts": ("words", lambda line: {"words": (line.words or 0) + 3}),
    "unknown words": ("unknown", lambda line: {"unknown": (line.unknown or 0) + 0.3}),
    "fewer regions": ("regions", lambda line: {"regions": 1 + (line.regions or 0) // 2}),
    "larger norms": ("norm", lambda line: {"norm": 1.05 * (line.norm or 0)}),
    "wider norms": ("norm_high", lambda line: {"norm_high": 1.1 * (line.norm_high or 0)}),
    "other classes": ("class", lambda line: {"classes": {29 - k: v for k, v in (line.classes or {}).items()}}),
}


def draw_drifted(kind: str, count: int) -> list[Line]:
    change = PLANTED[kind][1]
    return [line.model_copy(update=change(line)) for line in draw(np.random.default_rng(7), count)]


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("count", [150, 1000])
def test_each_kind_of_drift_is_found_in_its_statistic_only(kind: str, count: int, reference: Reference) -> None:
    name = PLANTED[kind][0]
    drift = measure_drift(draw_drifted(kind, count), reference, CLASSES, run_plainly)
    assert drift.verdict == "drift"
    assert get_verdicts(drift)[name] == "drift"
    assert {verdict for other, verdict in get_verdicts(drift).items() if other != name} == {"unchanged"}, (
        drift.summary()
    )


def test_great_expectations_and_the_plain_version_give_the_same_results(reference: Reference) -> None:
    lines = [line.model_copy(update={"norm": 900.0, "classes": {77: 3}}) for line in draw_drifted("unknown words", 150)]
    drift = measure_drift(lines, reference, CLASSES, run_suite)
    plain = measure_drift(lines, reference, CLASSES, run_plainly)
    assert get_verdicts(drift) == get_verdicts(plain) and set(get_verdicts(drift).values()) == {"drift", "unchanged"}
    for results, plain_results in zip(collect_results(drift), collect_results(plain), strict=True):
        assert results == plain_results
    assert "drift, 150 pairs: share of unknown word pieces (drift), mean norm of the regions (drift)" in drift.summary()
    assert "journal: expected that 95 % of the images" in drift.summary() and "norm 900" in drift.summary()


def collect_results(drift: Drift) -> list[list[ExpectationResult]]:
    """Return the results of the lines and of each statistic, without messages."""
    groups = [drift.line_results, *(statistic.results for statistic in drift.statistics)]
    return [[replace(result, message="") for result in results] for results in groups]  # type: ignore[type-var, misc]


@pytest.mark.parametrize(("psi", "ks", "severities"), [
    (0.0999, 0.1249, set()), (0.1, 0.0, {"warning"}), (0.0, 0.125, {"warning"}), (0.2499, 0.1999, {"warning"}),
    (0.25, 0.0, {"warning", "error"}), (0.0, 0.2, {"warning", "error"}),
])  # fmt: skip
def test_a_distance_at_a_limit_of_the_suite_fails(psi: float, ks: float, severities: set[str]) -> None:
    frame = pd.DataFrame({"psi": [psi], "ks": [ks]})
    for run in (run_suite, run_plainly):
        results = run("drift", frame, table="norm", label="norm")
        assert {result.severity for result in results if not result.ok} == severities


def test_classes_of_another_detector_are_found(reference: Reference) -> None:
    lines = [line.model_copy(update={"classes": {77: 3}}) for line in draw(np.random.default_rng(1), 120)]
    drift = measure_drift(lines, reference, CLASSES, run_plainly)
    assert any(result.table == "journal" and "vocabulary" in result.message for result in drift.failed)


@pytest.mark.parametrize("count", [0, 1, MIN_VALUES - 1])
def test_few_pairs_are_never_drift(count: int, reference: Reference) -> None:
    lines = [Line(score=9.0, words=500, norm=1e6, classes={500: 1}) for _ in range(count)]
    drift = measure_drift(lines, reference, CLASSES, run_plainly)
    assert (drift.verdict, drift.failed) == ("too few", [])
    assert f"{count} pairs" in drift.summary()
    assert set(get_verdicts(drift).values()) == {"too few"}


def test_statistics_without_values_are_not_compared(reference: Reference) -> None:
    """Text searches in a gallery have no scores and no images."""
    drift = measure_drift([Line(kind="search", words=10, unknown=0.0)] * 40, reference, CLASSES, run_plainly)
    assert drift.verdict == "too few"
    rng = np.random.default_rng(5)
    lines = [Line(kind="search", words=int(rng.poisson(9)) + 1) for _ in range(300)]
    verdicts = get_verdicts(measure_drift(lines, reference, CLASSES, run_suite))
    assert {name for name, verdict in verdicts.items() if verdict == "unchanged"} == {"words"}
    assert {verdict for name, verdict in verdicts.items() if name != "words"} == {"too few"}


def measure_alarm_rate(make: Callable[[np.random.Generator], SamplePair], seeds: int) -> float:
    """Return the share of seeds with a warning or an error, though the distributions are equal.

    The limits 0.1 and 0.125 are those of drift.json.
    """
    distances = [measure_distance(make(np.random.default_rng(seed))) for seed in range(seeds)]
    return sum(distance.psi_beyond >= 0.1 or distance.ks_beyond >= 0.125 for distance in distances) / seeds


@pytest.mark.parametrize("count", [100, 400, 2000])
def test_equal_distributions_rarely_raise_an_alarm(count: int) -> None:
    """Each of the two distances exceeds its size by chance once in 1000 times; 5 of 300 is far above that."""

    def numbers(rng: np.random.Generator) -> SamplePair:
        return SamplePair("words", rng.poisson(9, 2000) * 1.0, rng.poisson(9, count) * 1.0, 2000)

    def classes(rng: np.random.Generator) -> SamplePair:
        both = group_rare(rng.choice(CLASSES, 2000, p=CLASS_SHARES), rng.choice(CLASSES, count, p=CLASS_SHARES))
        return SamplePair("class", *both, 2000)

    assert measure_alarm_rate(numbers, 300) <= 5 / 300
    assert measure_alarm_rate(classes, 300) <= 5 / 300


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_change_of_the_share_of_matching_pairs_raises_no_alarm(share: float) -> None:
    def scores(rng: np.random.Generator) -> SamplePair:
        matching, non_matching = rng.normal(0.8, 0.15, 500), rng.normal(0.1, 0.2, 500)
        observed = np.where(rng.random(300) < share, rng.normal(0.8, 0.15, 300), rng.normal(0.1, 0.2, 300))
        return SamplePair("score", fit_mixture(observed, matching, non_matching)[1], observed, 500)

    assert measure_alarm_rate(scores, 100) <= 3 / 100


def test_ks_finds_a_change_of_a_constant_value() -> None:
    """PSI cannot find it, as it has only one bin."""
    distance = measure_distance(SamplePair("norm", np.ones(500), np.full(200, 1.01), 500))
    assert (distance.psi, distance.ks_beyond) == (0.0, 1.0)
    same = measure_distance(SamplePair("norm", np.ones(500), np.ones(200), 500))
    assert (same.psi_beyond, same.ks_beyond) == (0.0, 0.0)


def test_psi_and_ks_of_a_shifted_normal_distribution_equal_theory() -> None:
    """For a shift by d standard deviations, PSI is d squared and KS is 2 Phi(d / 2) - 1: 0.25 and 0.197 for d = 0.5."""
    rng = np.random.default_rng(0)
    distance = measure_distance(SamplePair("norm", rng.normal(0, 1, 50_000), rng.normal(0.5, 1, 50_000), 50_000))
    assert distance.psi == pytest.approx(0.25, abs=0.02)
    assert distance.ks == pytest.approx(0.197, abs=0.01)


def test_psi_equals_values_computed_by_hand() -> None:
    a, b, c = np.array(["a"] * 6 + ["b"] * 4), np.array(["a"] * 3 + ["b"] * 7), np.array(["a"] * 6 + ["c"] * 4)
    assert compute_psi(a, b) == pytest.approx(-0.3 * np.log(0.5) + 0.3 * np.log(7 / 4))
    empty = (0.4 - 1e-4) * np.log(0.4 / 1e-4)  # 'b' is empty in one sample, 'c' in the other
    assert compute_psi(a, c) == pytest.approx(2 * empty)
    numbers = np.arange(100.0)
    assert compute_psi(numbers, numbers) == 0.0
    assert compute_psi(numbers, np.full(50, 95.0)) == pytest.approx(0.9 * np.log(10) + 9 * (0.1 - 1e-4) * np.log(1000))
