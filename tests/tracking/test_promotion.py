"""Promotion and rollback on a real store: what is refused, what is recorded, what a crash leaves."""

from __future__ import annotations

import getpass
from pathlib import Path

import mlflow
import pytest
from registrations import age_tickets, aliases, pass_gate, register

from hire_model.settings import TrackingSettings
from hire_model.tracking import lease, versions
from hire_model.tracking.connection import TrackingError
from hire_model.tracking.lease import PromotionBusy, PromotionError
from hire_model.tracking.promotion import list_promotions, promote, roll_back
from hire_model.tracking.versions import PASSED


@pytest.fixture
def hire(tracking: TrackingSettings, request: pytest.FixtureRequest) -> TrackingSettings:
    """A registered model of three versions, of the test's own name; nobody is in force."""
    settings = tracking.model_copy(update={"model_name": request.node.name.replace("[", "-").strip("]")})
    register(settings, 3)
    return settings


def test_forward_and_back(hire: TrackingSettings) -> None:
    pass_gate(hire, "1")
    first = promote(hire, "1")
    assert (first.champion, first.previous, first.changed) == ("1", "", True) and "the first one" in first.summary()
    assert aliases(hire) == {"champion": "1"}
    pass_gate(hire, "2", against="1")
    second = promote(hire, "2")
    assert (second.champion, second.previous) == ("2", "1") and "in place of version 1" in second.summary()
    assert aliases(hire) == {"champion": "2", "previous": "1"}
    back = roll_back(hire)
    assert (back.champion, back.previous) == ("1", "2") and aliases(hire) == {"champion": "1", "previous": "2"}
    assert roll_back(hire).champion == "2" and aliases(hire) == {"champion": "2", "previous": "1"}
    done = list_promotions(hire)
    assert len(done) == 4 and all("(done)" in line for line in done) and "roll back: version 2" in done[0]


def test_a_version_rolled_back_wants_another_gate(hire: TrackingSettings) -> None:
    pass_gate(hire, "1")
    promote(hire, "1")
    pass_gate(hire, "2", against="1")
    promote(hire, "2")
    roll_back(hire, "it is slow")
    tags = versions.find(hire, "2").tags
    assert tags["gate.decision"] == "rolled back" and tags["gate.champion"] == "1"
    noted = tags["promotion.rolled_back"]
    assert noted.startswith("20") and f"by {getpass.getuser()}: it is slow" in noted
    assert "roll back: it is slow: version 1" in list_promotions(hire)[0]
    assert versions.find(hire, "1").tags["gate.decision"] == PASSED
    with pytest.raises(PromotionError, match=r"it was rolled back, 20.*it is slow.*hire gate --version 2.*--force"):
        promote(hire, "2")
    assert aliases(hire) == {"champion": "1", "previous": "2"}
    pass_gate(hire, "2", against="1")
    assert promote(hire, "2").champion == "2"
    roll_back(hire)
    assert promote(hire, "2", force="it was the network").champion == "2"


def test_promoting_again_changes_nothing(hire: TrackingSettings) -> None:
    pass_gate(hire, "1")
    promote(hire, "1")
    pass_gate(hire, "2", against="1")
    promote(hire, "2")
    again = promote(hire, "champion")
    assert (again.champion, again.previous, again.changed) == ("2", "1", False) and "already" in again.summary()
    assert aliases(hire) == {"champion": "2", "previous": "1"}


def test_an_alias_names_a_version(hire: TrackingSettings) -> None:
    mlflow.MlflowClient().set_registered_model_alias(hire.model_name, "challenger", "3")
    pass_gate(hire, "3")
    assert promote(hire).champion == "3"


@pytest.mark.parametrize("decision", [None, "failed", "running"])
def test_without_a_passed_gate_nobody_is_promoted(hire: TrackingSettings, decision: str | None) -> None:
    if decision:
        pass_gate(hire, "1", decision=decision)
    with pytest.raises(PromotionError, match=rf"decision is {decision or 'missing'}.*hire gate --version 1.*--force"):
        promote(hire, "1")
    assert aliases(hire) == {}


def test_a_gate_against_another_champion_does_not_count(hire: TrackingSettings) -> None:
    pass_gate(hire, "2")
    pass_gate(hire, "1")
    promote(hire, "1")
    with pytest.raises(PromotionError, match="compared it with version none, but the champion is 1 now"):
        promote(hire, "2")
    assert aliases(hire) == {"champion": "1"}


def test_force_needs_a_reason_and_keeps_it(hire: TrackingSettings) -> None:
    promote(hire, "1", force="the old one was trained on the wrong data")
    tags = versions.find(hire, "champion").tags
    assert tags["promotion.forced"] == "the old one was trained on the wrong data"
    assert tags["promotion.replaces"] == "none" and tags["promotion.date"].startswith("20")
    assert "forced: the old one" in list_promotions(hire)[0]


def test_nothing_to_go_back_to(hire: TrackingSettings) -> None:
    with pytest.raises(PromotionError, match="no champion"):
        roll_back(hire)
    promote(hire, "1", force="first")
    with pytest.raises(PromotionError, match="replaced no version"):
        roll_back(hire)
    promote(hire, "2", force="second")
    mlflow.MlflowClient().delete_model_version(hire.model_name, "1")
    with pytest.raises(PromotionError, match="replaced no version"):
        roll_back(hire)
    assert aliases(hire)["champion"] == "2"


def test_no_such_version_says_what_there_is(hire: TrackingSettings) -> None:
    for unknown in ("9", "nobody", ""):
        with pytest.raises(PromotionError, match=f"no version or alias '{unknown}'"):
            promote(hire, unknown)
        with pytest.raises(TrackingError, match=r"there are 3, 2, 1\."):
            versions.find(hire, unknown)
    with pytest.raises(TrackingError, match="has none yet"):
        versions.find(hire.model_copy(update={"model_name": "unheard-of"}), "1")


def test_a_ticket_that_is_open_keeps_others_out_until_it_lapses(hire: TrackingSettings, store: Path) -> None:
    promote(hire, "1", force="first")
    client, book = mlflow.MlflowClient(), f"{hire.model_name}-promotions"
    client.create_model_version(book, versions.find(hire, "2").uri, description="promote 2: killed in the middle")
    for attempt in (lambda: promote(hire, "3", force="now"), lambda: roll_back(hire)):
        with pytest.raises(PromotionError):
            attempt()
    with pytest.raises(PromotionBusy, match=r"killed in the middle.*was killed, in 1?[0-9]?[0-9] s"):
        promote(hire, "3", force="now")
    assert aliases(hire) == {"champion": "1"}
    age_tickets(store, 3600)
    promote(hire, "3", force="now")
    assert aliases(hire) == {"champion": "3", "previous": "1"}


def test_who_slept_too_long_writes_nothing_more(hire: TrackingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(hire, "1", force="first")
    real = mlflow.MlflowClient.set_registered_model_alias

    def sleeps_before(client: mlflow.MlflowClient, name: str, alias: str, version: str) -> None:
        real(client, name, alias, version)
        monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # as if all of it had passed

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", sleeps_before)
    with pytest.raises(PromotionBusy, match="given up"):
        promote(hire, "2", force="second")
    assert aliases(hire) == {"champion": "1", "previous": "1"}, "woken between the two aliases"
    assert "given up" in list_promotions(hire)[0]


def test_the_champion_is_read_again_under_the_ticket(hire: TrackingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another promotion is done between the first look and the ticket: the decision is stale and nobody moves."""
    promote(hire, "1", force="first")
    pass_gate(hire, "2", against="1")
    real = lease._create_book

    def overtaken(client: mlflow.MlflowClient, book: str) -> None:
        real(client, book)
        client.set_registered_model_alias(hire.model_name, "champion", "3")

    monkeypatch.setattr(lease, "_create_book", overtaken)
    with pytest.raises(PromotionError, match="compared it with version 1, but the champion is 3 now"):
        promote(hire, "2")
    assert aliases(hire) == {"champion": "3"}


def test_versions_are_listed_with_their_aliases(hire: TrackingSettings) -> None:
    promote(hire, "1", force="first")
    promote(hire, "3", force="second")
    found = versions.list_versions(hire)
    assert [(one.number, one.aliases) for one in found] == [("3", ("champion",)), ("2", ()), ("1", ("previous",))]
    champion = versions.find_champion(hire)
    assert champion is not None and champion.aliases == ("champion",) and champion.uri.endswith("/3")
    assert versions.list_versions(hire.model_copy(update={"model_name": "unheard-of"})) == []
    assert versions.find_champion(hire.model_copy(update={"model_name": "unheard-of"})) is None


def test_long_words_are_cut_at_a_line(hire: TrackingSettings) -> None:
    version = versions.find(hire, "1")
    versions.set_tags(hire, version, {"long": "a line\n" * 2000})
    versions.set_description(hire, version, "x" * 9000)
    kept = versions.find(hire, "1").tags["long"]
    assert len(kept) <= versions.DESCRIPTION_LIMIT and kept.endswith("a line\n\n(cut)")
    assert len(mlflow.MlflowClient().get_model_version(hire.model_name, "1").description) == versions.DESCRIPTION_LIMIT


def test_a_store_that_is_away_is_one_clear_error(tracking: TrackingSettings) -> None:
    nowhere = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    for attempt in (lambda: promote(nowhere, "1"), lambda: roll_back(nowhere), lambda: versions.list_versions(nowhere)):
        with pytest.raises(TrackingError, match="does not answer"):
            attempt()
