"""The rules of the gate on given figures, and properties that hold for any figures."""

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


def make_evidence(**changed: Any) -> Evidence:
    """Make evidence that passes STRICT, with `changed` fields."""
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


def make_comparison(difference: float = 0.0, width: float = 10.0, ground: Conditions = GROUND) -> Comparison:
    return Comparison(
        champion="3",
        ground=ground,
        challenger_rsum=350 + difference,
        champion_rsum=350,
        interval=(difference - width, difference + width),
        champion_scored=True,
    )


def list_failed(decision: Decision) -> set[str]:
    """Return the names of the rules that failed."""
    return {check.name for check in decision.failed_rules()}


def test_evidence_that_meets_every_rule_passes() -> None:
    decision = decide(make_evidence(), make_comparison(), STRICT)
    assert decision.passed and decision.reasons() == [] and decision.champion == "3"
    assert {check.verdict for check in decision.checks} == {"passed"}
    assert len(decision.checks) == 2 + 1 + 4 + 1 + 3
    lenient = decide(make_evidence(), make_comparison(), STRICT.model_copy(update={"max_mb": 0}))
    assert "passed all 10 rules" in lenient.summary(), (
        "a figure without a limit is reported but does not count as a rule"
    )
    assert "passed all 11 rules" in decision.summary() and "against version 3" in decision.summary()


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
def test_one_bad_figure_fails_its_rule_alone_and_is_the_reason(changed: dict[str, Any], name: str) -> None:
    decision = decide(make_evidence(**changed), make_comparison(), STRICT)
    assert list_failed(decision) == {name}
    assert decision.reasons()[0].startswith(f"{name}: ") and decision.reasons()[0] in decision.markdown()
    assert "failed 1 of 11 rules" in decision.summary()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [None, 0.0, 50.0])
def test_each_kind_of_contrast_has_its_own_limit(kind: str, share: float | None) -> None:
    shares = dict(make_evidence().behaviour)
    del shares[kind]
    if share is not None:
        shares[kind] = Behaviour(captions=100, share=share, interval=(share, share))
    assert len(list_failed(decide(make_evidence(behaviour=shares), None, STRICT))) == 1
    lenient = STRICT.model_copy(update={f"min_{kind}": 0.0})
    assert decide(make_evidence(behaviour=shares), None, lenient).passed, "a limit of 0 is no limit"


def test_a_constant_scorer_fails_the_default_rules() -> None:
    ties = {kind: Behaviour(captions=100, share=0.0, interval=(0.0, 0.0)) for kind in KINDS}
    decision = decide(make_evidence(figures={"full/rsum": 0.0}, behaviour=ties), None, GateSettings())
    assert list_failed(decision) == {"true caption above shuffled words"}


@pytest.mark.parametrize(
    ("difference", "width", "passes"),
    [
        (5, 1, True),
        (-5, 6, True),  # worse, but the interval reaches 0
        (-5, 4, False),  # worse, and the whole interval is below 0
        (-11, 40, False),  # the interval reaches 0, but the loss is more than max_drop
        (-9, 40, True),
    ],
)
def test_a_version_fails_if_its_interval_or_its_loss_is_worse_than_the_champion(
    difference: float, width: float, passes: bool
) -> None:
    decision = decide(make_evidence(), make_comparison(difference, width), STRICT)
    assert decision.passed == passes
    assert list_failed(decision) <= {"no worse than the champion"}


@pytest.mark.parametrize("changed", [{"digest": "b" * 64}, {"split": "dev"}, {"images": 100}, {"protocol": "coco-5k"}])
def test_figures_measured_under_other_conditions_are_not_compared(changed: dict[str, Any]) -> None:
    other = make_comparison(+100, ground=GROUND.model_copy(update=changed))
    decision = decide(make_evidence(), other, STRICT)
    assert list_failed(decision) == {"no worse than the champion"}
    assert "other data" in decision.reasons()[0]


def test_without_a_champion_the_other_rules_decide() -> None:
    decision = decide(make_evidence(), None, STRICT)
    assert decision.passed and decision.champion == "" and "no champion" in decision.summary()


def test_a_decision_is_equal_after_a_json_round_trip() -> None:
    decision = decide(make_evidence(megabytes=99), make_comparison(), STRICT)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    assert [row["rule"] for row in decision.rows()] == [check.name for check in decision.checks]


@pytest.mark.parametrize("text", ["full/rsum", "rsum=300", "full/rsum=many", "full/rsum=300 nonsense", "full/rsum=-1"])
def test_a_malformed_minimum_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"gate\.minimum: .*full/rsum=350"):
        resolve(overrides={"gate.minimum": text}, environ={})


def test_minimums_of_several_protocols_are_parsed() -> None:
    gate = resolve(overrides=["gate.minimum=full/rsum=350.5, coco-1k-5fold/t2i_r10=1"], environ={}).settings.gate
    assert gate.minimums == {"full/rsum": 350.5, "coco-1k-5fold/t2i_r10": 1.0}
    assert GateSettings().minimums == {}


percent = st.floats(0, 100, allow_nan=False)
bounds = st.one_of(st.just(0.0), percent)


@st.composite
def rules(draw: st.DrawFn) -> GateSettings:
    fields = {f"min_{kind}": draw(bounds) for kind in KINDS}
    fields |= {name: draw(bounds) for name in ("max_drop", "max_pair_ms", "max_query_ms", "max_mb")}
    minimum = f"full/rsum={draw(st.integers(0, 600))}"
    return GateSettings(minimum=minimum, max_ece=draw(st.floats(0, 1)), **fields)


@st.composite
def figures(draw: st.DrawFn) -> dict[str, float | None]:
    """Draw every figure that the rules check; None for one that was not measured."""
    maybe = st.one_of(st.none(), percent)
    names = ("rsum", *KINDS, "ece", "pair_ms", "query_ms", "megabytes")
    return {name: draw(maybe) for name in names} | {"difference": draw(st.floats(-100, 100)), "width": draw(percent)}


def decide_on(found: dict[str, float | None], limits: GateSettings) -> Decision:
    """Decide on the drawn figures."""
    timed = found["pair_ms"] is not None and found["query_ms"] is not None
    shares = {kind: found[kind] for kind in KINDS if found[kind] is not None}
    evidence = make_evidence(
        figures={} if found["rsum"] is None else {"full/rsum": found["rsum"]},
        behaviour={kind: Behaviour(captions=99, share=share, interval=(0, 100)) for kind, share in shares.items()},
        calibration=None
        if found["ece"] is None
        else Calibration(queries=9, gallery=9, temperature=1, ece=found["ece"] / 100, confidence=0.5, accuracy=0.5),
        speed=Speed(pair_ms=found["pair_ms"], query_ms=found["query_ms"], gallery=100) if timed else None,
        megabytes=found["megabytes"],
    )
    return decide(evidence, make_comparison(found["difference"] or 0.0, found["width"] or 0.0), limits)


@given(figures(), rules(), st.data())
def test_a_better_figure_never_turns_pass_into_fail(
    found: dict[str, float | None], limits: GateSettings, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(name for name, value in found.items() if value is not None)))
    value, step = found[name] or 0.0, data.draw(percent)
    if name in ("ece", "pair_ms", "query_ms", "megabytes"):
        better = max(0.0, value - step)
    else:
        better = min(100.0, value + step) if name in KINDS else value + step
    assert list_failed(decide_on(found | {name: better}, limits)) <= list_failed(decide_on(found, limits))


@given(figures(), rules())
def test_all_rules_are_checked_and_every_failed_one_is_a_reason(
    found: dict[str, float | None], limits: GateSettings
) -> None:
    decision = decide_on(found, limits)
    assert decision.passed == (not decision.reasons())
    assert len(decision.reasons()) == len([check for check in decision.checks if not check.ok])
    for check in decision.failed_rules():
        assert any(reason.startswith(f"{check.name}: ") for reason in decision.reasons())
        assert f"| {check.name} |" in decision.markdown()
    assert len({check.name for check in decision.checks}) == len(decision.checks) == 1 + 1 + 4 + 1 + 3


@given(figures())
def test_without_limits_only_the_comparison_with_the_champion_can_fail(found: dict[str, float | None]) -> None:
    none = GateSettings(
        max_drop=0, max_pair_ms=0, max_query_ms=0, max_mb=0, min_shuffle=0, max_ece=0, minimum="full/rsum=0"
    )
    assert list_failed(decide_on(found, none)) <= {"no worse than the champion"}


@given(st.sampled_from(["", "at least 3"]), st.booleans())
def test_the_verdict_of_a_figure_without_a_limit_is_reported(limit: str, ok: bool) -> None:
    verdict = RuleResult(name="a", ok=ok, measured="1", limit=limit, words="").verdict
    assert verdict == ("failed" if not ok else "passed" if limit else "reported")
