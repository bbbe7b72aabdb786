"""The comparison of a journal with a data set, on figures drawn from known distributions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from expectations.distributions import FEW, Distribution, distance, grouped, mixture
from expectations.drift import Drift, compare

from hire_model.monitoring.journal import Line
from hire_model.monitoring.reference import Reference

CLASSES = [f"thing {i}" for i in range(30)]
PLACES = np.arange(30) / 30


def draw(rng: np.random.Generator, count: int, share: float = 0.3) -> list[Line]:
    """Lines of one world: `share` of the pairs match."""
    matching = rng.random(count) < share
    scores = np.where(matching, rng.normal(0.8, 0.15, count), rng.normal(0.1, 0.2, count))
    lines = []
    for score in scores:
        norms = np.sort(rng.normal(20, 2, 12))
        kinds, counts = np.unique(rng.choice(30, 12, p=(1 - PLACES) / (1 - PLACES).sum()), return_counts=True)
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
                classes=dict(zip(kinds.tolist(), counts.tolist(), strict=True)),
            )
        )
    return lines


@pytest.fixture(scope="module")
def learned() -> Reference:
    rng = np.random.default_rng(99)
    return Reference(draw(rng, 2000), rng.normal(0.8, 0.15, 1000), rng.normal(0.1, 0.2, 1000), 1000)


def of(drift: Drift) -> dict[str, str]:
    return {one.figure.name: one.verdict for one in drift.compared}


@pytest.mark.parametrize(("seed", "count", "share"), [(0, 100, 0.3), (1, 150, 1.0), (2, 1000, 0.02), (3, 4000, 0.5)])
def test_the_same_world_gives_no_alarm(seed: int, count: int, share: float, learned: Reference) -> None:
    drift = compare(draw(np.random.default_rng(seed), count, share), learned, CLASSES)
    assert drift.verdict == "no drift", drift.summary()
    assert set(of(drift).values()) == {"as learned"}, drift.summary()
    assert drift.matching == pytest.approx(share, abs=0.15)


PLANTED: dict[str, tuple[str, Callable[[Line], dict[str, object]]]] = {
    "scores that nothing learned explains": ("score", lambda line: {"score": 0.45 + 0.1 * (line.score or 0)}),
    "longer sentences": ("words", lambda line: {"words": (line.words or 0) + 3}),
    "words that are not known": ("unknown", lambda line: {"unknown": (line.unknown or 0) + 0.3}),
    "fewer regions": ("regions", lambda line: {"regions": 1 + (line.regions or 0) // 2}),
    "larger norms": ("norm", lambda line: {"norm": 1.05 * (line.norm or 0)}),
    "wider norms": ("norm_high", lambda line: {"norm_high": 1.1 * (line.norm_high or 0)}),
    "other classes": ("class", lambda line: {"classes": {29 - k: v for k, v in (line.classes or {}).items()}}),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("count", [150, 1000])
def test_each_kind_of_drift_is_found_and_named(kind: str, count: int, learned: Reference) -> None:
    name, change = PLANTED[kind]
    lines = [line.model_copy(update=change(line)) for line in draw(np.random.default_rng(7), count)]
    drift = compare(lines, learned, CLASSES)
    assert drift.verdict == "drift"
    assert of(drift)[name] == "drift"
    assert {verdict for other, verdict in of(drift).items() if other != name} == {"as learned"}, drift.summary()


def test_features_and_classes_of_another_detector(learned: Reference) -> None:
    lines = [line.model_copy(update={"classes": {77: 3}}) for line in draw(np.random.default_rng(1), 120)]
    drift = compare(lines, learned, CLASSES)
    assert any(check.table == "journal" and "vocabulary" in check.message for check in drift.failed)


@pytest.mark.parametrize("count", [0, 1, FEW - 1])
def test_few_pairs_never_alarm(count: int, learned: Reference) -> None:
    lines = [Line(score=9.0, words=500, norm=1e6, classes={500: 1}) for _ in range(count)]
    drift = compare(lines, learned, CLASSES)
    assert (drift.verdict, drift.failed) == ("too few", [])
    assert f"{count} pairs" in drift.summary()
    assert set(of(drift).values()) == {"too few"}


def test_what_the_journal_has_not_is_not_compared(learned: Reference) -> None:
    """Searches by text in a gallery: no scores, no pictures."""
    drift = compare([Line(kind="search", words=10, unknown=0.0)] * 40, learned, CLASSES)
    assert drift.verdict == "too few"
    rng = np.random.default_rng(5)
    lines = [Line(kind="search", words=int(rng.poisson(9)) + 1) for _ in range(300)]
    found = of(compare(lines, learned, CLASSES))
    assert {name for name, verdict in found.items() if verdict == "as learned"} == {"words"}
    assert {found[name] for name in found if name != "words"} == {"too few"}


def alarms(make: Callable[[np.random.Generator], Distribution], seeds: int) -> float:
    """The share of seeds at which chance alone would have been an error or a warning (0.1, 0.125 as in drift.json)."""
    found = [distance(make(np.random.default_rng(seed))) for seed in range(seeds)]
    return sum(one.psi_beyond >= 0.1 or one.ks_beyond >= 0.125 for one in found) / seeds


@pytest.mark.parametrize("count", [100, 400, 2000])
def test_chance_is_no_drift(count: int) -> None:
    """Two tests of one in a thousand each; 5 of 300 would be far above that."""

    def numbers(rng: np.random.Generator) -> Distribution:
        return Distribution("words", rng.poisson(9, 2000) * 1.0, rng.poisson(9, count) * 1.0, 2000)

    def kinds(rng: np.random.Generator) -> Distribution:
        shares = (1 - PLACES) / (1 - PLACES).sum()
        both = grouped(rng.choice(CLASSES, 2000, p=shares), rng.choice(CLASSES, count, p=shares))
        return Distribution("class", *both, 2000)

    assert alarms(numbers, 300) <= 5 / 300
    assert alarms(kinds, 300) <= 5 / 300


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_any_share_of_matching_pairs_is_explained(share: float) -> None:
    def scores(rng: np.random.Generator) -> Distribution:
        own, strange = rng.normal(0.8, 0.15, 500), rng.normal(0.1, 0.2, 500)
        asked = np.where(rng.random(300) < share, rng.normal(0.8, 0.15, 300), rng.normal(0.1, 0.2, 300))
        return Distribution("score", mixture(asked, own, strange)[1], asked, 500)

    assert alarms(scores, 100) <= 3 / 100


def test_a_figure_that_never_varied_and_does_now() -> None:
    """PSI has one bin only and is blind to it; KS is not."""
    found = distance(Distribution("norm", np.ones(500), np.full(200, 1.01), 500))
    assert (found.psi, found.ks_beyond) == (0.0, 1.0)
    same = distance(Distribution("norm", np.ones(500), np.ones(200), 500))
    assert (same.psi_beyond, same.ks_beyond) == (0.0, 0.0)


def test_psi_and_ks_of_a_shifted_normal_are_what_theory_says() -> None:
    """PSI of a shift by d standard deviations is d squared, KS 2 Phi(d / 2) - 1: 0.25 and 0.197 for a half."""
    rng = np.random.default_rng(0)
    found = distance(Distribution("norm", rng.normal(0, 1, 50_000), rng.normal(0.5, 1, 50_000), 50_000))
    assert found.psi == pytest.approx(0.25, abs=0.02)
    assert found.ks == pytest.approx(0.197, abs=0.01)
