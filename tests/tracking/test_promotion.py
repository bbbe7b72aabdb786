"""Promotion and rollback on a real store: what is refused, what is recorded, and what remains after a crash."""

from __future__ import annotations

import getpass
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from registrations import age_tickets, pass_gate, read_aliases, register_versions

from hire_model.settings import TrackingSettings
from hire_model.tracking import lease, versions
from hire_model.tracking.connection import TrackingError
from hire_model.tracking.lease import PromotionBusy, PromotionError
from hire_model.tracking.promotion import list_promotions, promote, roll_back
from hire_model.tracking.versions import PASSED

pytestmark = pytest.mark.slow


@pytest.fixture
def hire(tracking: TrackingSettings, request: pytest.FixtureRequest) -> TrackingSettings:
    """Register three versions of a model with the test's name; none of them is the champion."""
    settings = tracking.model_copy(update={"model_name": request.node.name.replace("[", "-").strip("]")})
    register_versions(settings, 3)
    return settings


@pytest.fixture
def two_promoted(hire: TrackingSettings) -> TrackingSettings:
    """Promote version 1, then version 2, each after a gate."""
    pass_gate(hire, "1")
    promote(hire, "1")
    pass_gate(hire, "2", against="1")
    promote(hire, "2")
    return hire


def test_promotions_and_rollbacks_move_both_aliases(hire: TrackingSettings) -> None:
    pass_gate(hire, "1")
    first = promote(hire, "1")
    assert (first.champion, first.previous, first.changed) == ("1", "", True) and "the first one" in first.summary()
    assert read_aliases(hire) == {"champion": "1"}
    pass_gate(hire, "2", against="1")
    second = promote(hire, "2")
    assert (second.champion, second.previous) == ("2", "1") and "in place of version 1" in second.summary()
    assert read_aliases(hire) == {"champion": "2", "previous": "1"}
    back = roll_back(hire)
    assert (back.champion, back.previous) == ("1", "2") and read_aliases(hire) == {"champion": "1", "previous": "2"}
    assert roll_back(hire).champion == "2" and read_aliases(hire) == {"champion": "2", "previous": "1"}
    lines = list_promotions(hire)
    assert len(lines) == 4 and all("(done)" in line for line in lines) and "roll back: version 2" in lines[0]


def test_a_version_that_was_rolled_back_needs_another_gate(two_promoted: TrackingSettings) -> None:
    hire = two_promoted
    roll_back(hire, "it is slow")
    tags = versions.find(hire, "2").tags
    assert tags["gate.decision"] == "rolled back" and tags["gate.champion"] == "1"
    note = tags["promotion.rolled_back"]
    assert note.startswith("20") and f"by {getpass.getuser()}: it is slow" in note
    assert "roll back: it is slow: version 1" in list_promotions(hire)[0]
    assert versions.find(hire, "1").tags["gate.decision"] == PASSED
    with pytest.raises(PromotionError, match=r"it was rolled back, 20.*it is slow.*hire gate --version 2.*--force"):
        promote(hire, "2")
    assert read_aliases(hire) == {"champion": "1", "previous": "2"}
    pass_gate(hire, "2", against="1")
    assert promote(hire, "2").champion == "2"
    roll_back(hire)
    assert promote(hire, "2", force="it was the network").champion == "2"


def test_promoting_the_champion_changes_nothing(two_promoted: TrackingSettings) -> None:
    again = promote(two_promoted, "champion")
    assert (again.champion, again.previous, again.changed) == ("2", "1", False) and "already" in again.summary()
    assert read_aliases(two_promoted) == {"champion": "2", "previous": "1"}


def test_a_version_is_promoted_through_its_alias(hire: TrackingSettings) -> None:
    mlflow.MlflowClient().set_registered_model_alias(hire.model_name, "challenger", "3")
    pass_gate(hire, "3")
    assert promote(hire).champion == "3"


def test_the_refusal_of_a_version_that_failed_its_gate_has_the_reasons(hire: TrackingSettings) -> None:
    pass_gate(hire, "1", decision="failed")
    reasons = "calibration error: 0.3, at most 0.2"
    mlflow.MlflowClient().set_model_version_tag(hire.model_name, "1", "gate.reasons", reasons)
    with pytest.raises(PromotionError, match=rf"failed its gate\.\n{reasons}\n.*--version 1 --force REASON"):
        promote(hire, "1")
    assert read_aliases(hire) == {}


@pytest.mark.parametrize("decision", [None, "running"])
def test_a_version_without_a_passed_gate_is_refused(hire: TrackingSettings, decision: str | None) -> None:
    if decision:
        pass_gate(hire, "1", decision=decision)
    with pytest.raises(PromotionError, match=rf"decision is {decision or 'missing'}.*hire gate --version 1.*--force"):
        promote(hire, "1")
    assert read_aliases(hire) == {}


def test_a_gate_against_another_champion_is_refused(hire: TrackingSettings) -> None:
    pass_gate(hire, "2")
    pass_gate(hire, "1")
    promote(hire, "1")
    with pytest.raises(PromotionError, match="compared it with version none, but the champion is 1 now"):
        promote(hire, "2")
    assert read_aliases(hire) == {"champion": "1"}


def test_the_reason_of_a_forced_promotion_is_recorded(hire: TrackingSettings) -> None:
    promote(hire, "1", force="the old one was trained on the wrong data")
    tags = versions.find(hire, "champion").tags
    assert tags["promotion.forced"] == "the old one was trained on the wrong data"
    assert tags["promotion.replaces"] == "none" and tags["promotion.date"].startswith("20")
    assert "forced: the old one" in list_promotions(hire)[0]


def test_a_rollback_without_an_earlier_champion_is_refused(hire: TrackingSettings) -> None:
    with pytest.raises(PromotionError, match="no champion"):
        roll_back(hire)
    promote(hire, "1", force="first")
    with pytest.raises(PromotionError, match="replaced no version"):
        roll_back(hire)
    promote(hire, "2", force="second")
    mlflow.MlflowClient().delete_model_version(hire.model_name, "1")
    with pytest.raises(PromotionError, match="replaced no version"):
        roll_back(hire)
    assert read_aliases(hire)["champion"] == "2"


def test_an_unknown_version_is_refused_with_the_versions_that_exist(hire: TrackingSettings) -> None:
    for unknown in ("9", "unknown", ""):
        with pytest.raises(PromotionError, match=f"no version or alias '{unknown}'"):
            promote(hire, unknown)
        with pytest.raises(TrackingError, match=r"there are 3, 2, 1\. See"):
            versions.find(hire, unknown)
    with pytest.raises(TrackingError, match="has none yet"):
        versions.find(hire.model_copy(update={"model_name": "unregistered"}), "1")


def test_a_misspelled_alias_is_refused_with_the_nearest_one(two_promoted: TrackingSettings) -> None:
    with pytest.raises(TrackingError, match=r"there are 3, 2 = champion, 1 = previous\. Did you mean 'champion'\?"):
        versions.find(two_promoted, "champoin")
    with pytest.raises(PromotionError, match=r"'champoin'\. Did you mean 'champion'\?"):
        promote(two_promoted, "champoin")


def test_an_open_ticket_blocks_promotions_until_it_expires(hire: TrackingSettings, store: Path) -> None:
    promote(hire, "1", force="first")
    client, book = mlflow.MlflowClient(), f"{hire.model_name}-promotions"
    client.create_model_version(book, versions.find(hire, "2").uri, description="promote 2: killed in the middle")
    for attempt in (lambda: promote(hire, "3", force="now"), lambda: roll_back(hire)):
        with pytest.raises(PromotionError):
            attempt()
    with pytest.raises(PromotionBusy, match=r"killed in the middle.*was killed, in 1?[0-9]?[0-9] s"):
        promote(hire, "3", force="now")
    assert read_aliases(hire) == {"champion": "1"}
    age_tickets(store, 3600)
    promote(hire, "3", force="now")
    assert read_aliases(hire) == {"champion": "3", "previous": "1"}


def test_a_process_writes_nothing_after_half_of_its_lease(
    hire: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(hire, "1", force="first")
    real = mlflow.MlflowClient.set_registered_model_alias

    def expire_after(client: mlflow.MlflowClient, name: str, alias: str, version: str) -> None:
        real(client, name, alias, version)
        monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # as if the whole lease had passed

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", expire_after)
    with pytest.raises(PromotionBusy, match=r"promote 2.*: stopped after 0 s"):
        promote(hire, "2", force="second")
    assert read_aliases(hire) == {"champion": "1", "previous": "1"}, "stopped between the two aliases"
    assert "given up" in list_promotions(hire)[0]


def test_the_champion_is_read_again_under_the_lease(hire: TrackingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another promotion ends between the first check and the ticket: the gate decision is stale and is refused."""
    promote(hire, "1", force="first")
    pass_gate(hire, "2", against="1")
    real = lease._create_book

    def promote_another(client: mlflow.MlflowClient, book: str) -> None:
        real(client, book)
        client.set_registered_model_alias(hire.model_name, "champion", "3")

    monkeypatch.setattr(lease, "_create_book", promote_another)
    with pytest.raises(PromotionError, match="compared it with version 1, but the champion is 3 now"):
        promote(hire, "2")
    assert read_aliases(hire) == {"champion": "3"}


def test_versions_are_listed_with_their_aliases(hire: TrackingSettings) -> None:
    promote(hire, "1", force="first")
    promote(hire, "3", force="second")
    listed = versions.list_versions(hire)
    assert [(each.number, each.aliases) for each in listed] == [("3", ("champion",)), ("2", ()), ("1", ("previous",))]
    champion = versions.find_champion(hire)
    assert champion is not None and champion.aliases == ("champion",) and champion.uri.endswith("/3")
    unregistered = hire.model_copy(update={"model_name": "unregistered"})
    assert versions.list_versions(unregistered) == [] and versions.find_champion(unregistered) is None


def test_long_tags_and_descriptions_are_cut_at_a_line(hire: TrackingSettings) -> None:
    version = versions.find(hire, "1")
    versions.set_tags(hire, version, {"long": "a line\n" * 2000})
    versions.set_description(hire, version, "x" * 9000)
    stored = versions.find(hire, "1").tags["long"]
    assert len(stored) <= versions.DESCRIPTION_LIMIT and stored.endswith("a line\n\n(cut)")
    assert len(mlflow.MlflowClient().get_model_version(hire.model_name, "1").description) == versions.DESCRIPTION_LIMIT


def test_a_store_that_is_down_raises_tracking_error(tracking: TrackingSettings) -> None:
    down = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    for attempt in (lambda: promote(down, "1"), lambda: roll_back(down), lambda: versions.list_versions(down)):
        with pytest.raises(TrackingError, match="does not answer"):
            attempt()


def test_a_full_disk_gives_one_clear_message_and_changes_nothing(
    hire: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(hire, "1", force="first")

    def fail(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: UPDATE registered_models]")

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", fail)
    with pytest.raises(TrackingError) as caught:
        promote(hire, "2", force="second")
    message = str(caught.value)
    assert "is full: it failed to" in message and "Free disk space" in message
    assert "sqlite3" not in message and "SQL:" not in message and "\n" not in message
    assert read_aliases(hire) == {"champion": "1"}
