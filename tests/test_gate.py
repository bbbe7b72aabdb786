"""The gate as a pure function: what fails, what does not, and what must hold for any figures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hire_model.errors import SettingsError
from hire_model.evaluation.behaviour import Behaviour
from hire_model.evaluation.calibration import Calibration
from hire_model.evaluation.speed import Speed
from hire_model.gate import KINDS, Comparison, Conditions, Decision, Evidence, RuleResult, decide
from hire_model.settings import GateSettings, resolve

GROUND = Conditions(data="scenes", digest="a" * 64, split="test", images=200, protocol="full")
STRICT = GateSettings(
    minimum="full/rsum=300, full/t2i_r1=20",
    max_drop=10,
    max_pair_ms=50,
    max_query_ms=100,
    max_mb=10,
    min_shuffle=60,
    min_swap=55,
    min_colour=55,
    min_negation=55,
    max_ece=0.1,
)


def evidence(**changed: Any) -> Evidence:
    """What STRICT lets through, but for what is changed."""
    share = {"captions": 100, "interval": (40.0, 90.0)}
    values: dict[str, Any] = {
        "version": "7",
        "ground": GROUND,
        "figures": {"full/rsum": 350.0, "full/t2i_r1": 25.0},
        "behaviour": {kind: Behaviour(share=70.0, **share) for kind in KINDS},
        "calibration": Calibration(queries=100, gallery=200, temperature=0.05, ece=0.05, confidence=0.5, accuracy=0.45),
        "speed": Speed(pair_ms=20, query_ms=40, gallery=100),
        "megabytes": 5.0,
    }
    return Evidence(**values | changed)


def comparison(difference: float = 0.0, width: float = 10.0, ground: Conditions = GROUND) -> Comparison:
    return Comparison(
        champion="3",
        ground=ground,
        challenger_rsum=350 + difference,
        champion_rsum=350,
        interval=(difference - width, difference + width),
        champion_scored=True,
    )


def failed(decision: Decision) -> set[str]:
    return {check.name for check in decision.failed_rules()}


def test_what_meets_every_rule_passes() -> None:
    decision = decide(evidence(), comparison(), STRICT)
    assert decision.passed and decision.reasons() == [] and decision.champion == "3"
    assert {check.verdict for check in decision.checks} == {"passed"}
    assert len(decision.checks) == 2 + 1 + 4 + 1 + 3
    lenient = decide(evidence(), comparison(), STRICT.model_copy(update={"max_mb": 0}))
    assert "passed all 10 checks" in lenient.summary(), "a figure without a limit is told, and no check"
    assert "passed all 11 checks" in decision.summary() and "against version 3" in decision.summary()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"figures": {"full/rsum": 299.9, "full/t2i_r1": 25.0}}, "recall full/rsum"),
        ({"figures": {"full/rsum": 350.0}}, "recall full/t2i_r1"),
        ({"calibration": None}, "calibration error"),
        ({"speed": Speed(pair_ms=51, query_ms=40, gallery=100)}, "time for a pair"),
        ({"speed": Speed(pair_ms=20, query_ms=101, gallery=100)}, "time for a query"),
        ({"megabytes": 10.1}, "size"),
        ({"megabytes": None}, "size"),
    ],
)
def test_one_fault_fails_one_rule_and_is_the_reason(changed: dict[str, Any], name: str) -> None:
    decision = decide(evidence(**changed), comparison(), STRICT)
    assert failed(decision) == {name}
    assert decision.reasons()[0].startswith(f"{name}: ") and decision.reasons()[0] in decision.markdown()
    assert "failed 1 of 11 checks" in decision.summary()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [None, 0.0, 50.0])
def test_each_behaviour_has_its_own_limit(kind: str, share: float | None) -> None:
    shares = dict(evidence().behaviour)
    del shares[kind]
    if share is not None:
        shares[kind] = Behaviour(captions=100, share=share, interval=(share, share))
    assert len(failed(decide(evidence(behaviour=shares), None, STRICT))) == 1
    lenient = STRICT.model_copy(update={f"min_{kind}": 0.0})
    assert decide(evidence(behaviour=shares), None, lenient).passed, "a limit of 0 holds nobody back"


def test_a_constant_scorer_does_not_pass_the_rules_as_they_come() -> None:
    ties = {kind: Behaviour(captions=100, share=0.0, interval=(0.0, 0.0)) for kind in KINDS}
    decision = decide(evidence(figures={"full/rsum": 0.0}, behaviour=ties), None, GateSettings())
    assert failed(decision) == {"above its words shuffled"}


@pytest.mark.parametrize(
    ("difference", "width", "passes"),
    [
        (5, 1, True),
        (-5, 6, True),  # worse, but not beyond its interval
        (-5, 4, False),  # worse beyond its interval
        (-11, 40, False),  # too few images to be sure, and more than max_drop all the same
        (-9, 40, True),
    ],
)
def test_no_worse_than_the_champion(difference: float, width: float, passes: bool) -> None:
    decision = decide(evidence(), comparison(difference, width), STRICT)
    assert decision.passed == passes
    assert failed(decision) <= {"no worse than the champion"}


@pytest.mark.parametrize("changed", [{"digest": "b" * 64}, {"split": "dev"}, {"images": 100}, {"protocol": "coco-5k"}])
def test_figures_on_other_ground_are_not_compared(changed: dict[str, Any]) -> None:
    other = comparison(+100, ground=GROUND.model_copy(update=changed))
    decision = decide(evidence(), other, STRICT)
    assert failed(decision) == {"no worse than the champion"}
    assert "other data" in decision.reasons()[0]


def test_without_a_champion_there_is_none_to_beat() -> None:
    decision = decide(evidence(), None, STRICT)
    assert decision.passed and decision.champion == "" and "no champion" in decision.summary()


def test_a_decision_survives_its_json() -> None:
    decision = decide(evidence(megabytes=99), comparison(), STRICT)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    assert [row["rule"] for row in decision.rows()] == [check.name for check in decision.checks]


@pytest.mark.parametrize("text", ["full/rsum", "rsum=300", "full/rsum=many", "full/rsum=300 nonsense", "full/rsum=-1"])
def test_a_minimum_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(SettingsError, match=r"gate\.minimum: .*full/rsum=350"):
        resolve(overrides={"gate.minimum": text}, environ={})


def test_minimums_are_read() -> None:
    found = resolve(overrides=["gate.minimum=full/rsum=350.5, coco-1k-5fold/t2i_r10=1"], environ={}).settings.gate
    assert found.minimums == {"full/rsum": 350.5, "coco-1k-5fold/t2i_r10": 1.0}
    assert GateSettings().minimums == {}


percent = st.floats(0, 100, allow_nan=False)
limits = st.one_of(st.just(0.0), percent)


@st.composite
def rules(draw: st.DrawFn) -> GateSettings:
    fields = {f"min_{kind}": draw(limits) for kind in KINDS}
    fields |= {name: draw(limits) for name in ("max_drop", "max_pair_ms", "max_query_ms", "max_mb")}
    minimum = f"full/rsum={draw(st.integers(0, 600))}"
    return GateSettings(minimum=minimum, max_ece=draw(st.floats(0, 1)), **fields)


@st.composite
def figures(draw: st.DrawFn) -> dict[str, float | None]:
    """Every figure that the rules look at; None where it was not measured."""
    maybe = st.one_of(st.none(), percent)
    names = ("rsum", *KINDS, "ece", "pair_ms", "query_ms", "megabytes")
    return {name: draw(maybe) for name in names} | {"difference": draw(st.floats(-100, 100)), "width": draw(percent)}


def judged(found: dict[str, float | None], by: GateSettings) -> Decision:
    timed = found["pair_ms"] is not None and found["query_ms"] is not None
    shares = {kind: found[kind] for kind in KINDS if found[kind] is not None}
    made = evidence(
        figures={} if found["rsum"] is None else {"full/rsum": found["rsum"]},
        behaviour={kind: Behaviour(captions=99, share=share, interval=(0, 100)) for kind, share in shares.items()},
        calibration=None
        if found["ece"] is None
        else Calibration(queries=9, gallery=9, temperature=1, ece=found["ece"] / 100, confidence=0.5, accuracy=0.5),
        speed=Speed(pair_ms=found["pair_ms"], query_ms=found["query_ms"], gallery=100) if timed else None,
        megabytes=found["megabytes"],
    )
    return decide(made, comparison(found["difference"] or 0.0, found["width"] or 0.0), by)


@given(figures(), rules(), st.data())
def test_a_better_figure_never_turns_pass_into_fail(
    found: dict[str, float | None], by: GateSettings, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(name for name, value in found.items() if value is not None)))
    value, step = found[name] or 0.0, data.draw(percent)
    if name in ("ece", "pair_ms", "query_ms", "megabytes"):
        better = max(0.0, value - step)
    else:
        better = min(100.0, value + step) if name in KINDS else value + step
    assert failed(judged(found | {name: better}, by)) <= failed(judged(found, by))


@given(figures(), rules())
def test_every_failed_rule_is_a_reason_and_all_rules_are_asked(
    found: dict[str, float | None], by: GateSettings
) -> None:
    decision = judged(found, by)
    assert decision.passed == (not decision.reasons())
    assert len(decision.reasons()) == len([check for check in decision.checks if not check.ok])
    for check in decision.failed_rules():
        assert any(reason.startswith(f"{check.name}: ") for reason in decision.reasons())
        assert f"| {check.name} |" in decision.markdown()
    assert len({check.name for check in decision.checks}) == len(decision.checks) == 1 + 1 + 4 + 1 + 3


@given(figures())
def test_without_limits_only_the_champion_can_be_in_the_way(found: dict[str, float | None]) -> None:
    none = GateSettings(
        max_drop=0, max_pair_ms=0, max_query_ms=0, max_mb=0, min_shuffle=0, max_ece=0, minimum="full/rsum=0"
    )
    assert failed(judged(found, none)) <= {"no worse than the champion"}


@given(st.sampled_from(["", "at least 3"]), st.booleans())
def test_the_verdict_says_whether_there_was_a_limit(limit: str, ok: bool) -> None:
    verdict = RuleResult(name="a", ok=ok, measured="1", limit=limit, words="").verdict
    assert verdict == ("failed" if not ok else "passed" if limit else "reported")
