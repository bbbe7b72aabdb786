"""Promotion and rollback: change which version is the champion, in an order that is safe when the process is killed.

One promotion runs at a time (hire_model/tracking/lease.py). Under the lease it reads the champion again, then writes:

    1  tags of the new version: which version it replaces    (read only by a rollback)
    2  alias previous -> the old champion                    (the old champion is in force, under two aliases)
    3  alias champion -> the new version                     (this write decides)
    4  the ticket of the lease is closed

A rollback also writes, before 2, tags of the version that it takes out of force: who did that, when and why, and the
gate decision 'rolled back', so that it cannot be promoted again before another `hire gate`. If the process is killed in
between, the champion has these tags, which only a promotion reads, so they do no harm; written after 3 they might be
missing.

Killed before 3, the old champion is in force; after it, the new one. A rollback reads from the tags of 1 which version
to go back to, not from the alias `previous`, which may be half-way.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hire_model.settings import TrackingSettings
from hire_model.tracking.lease import CLOSED, PromotionError, hold_lease, list_tickets
from hire_model.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    DECISION,
    JUDGED_AGAINST,
    NO_VERSION,
    PASSED,
    PREVIOUS,
    Version,
    find_in,
    open_registry,
    truncate,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPLACES, FORCED, DATE = "promotion.replaces", "promotion.forced", "promotion.date"
ROLLED_BACK, UNDONE = "rolled back", "promotion.rolled_back"  # a gate decision; when, by whom and why


@dataclass(frozen=True)
class Promotion:
    """The champion now, the version that it replaced ("" for none), and whether this call changed it."""

    name: str
    champion: str
    previous: str
    changed: bool

    def summary(self) -> str:
        """Return one sentence for the user."""
        if not self.changed:
            return f"Version {self.champion} of '{self.name}' is the champion already; nothing was changed."
        before = f", in place of version {self.previous}" if self.previous else ", the first one"
        return f"Version {self.champion} of '{self.name}' is the champion now{before}."


def promote(settings: TrackingSettings, version: str = CHALLENGER, force: str = "") -> Promotion:
    """Make a version, by number or alias, the champion.

    force: a reason to promote it without a passed gate; it is written to the version's tags.
    Raises PromotionError if there is no such version, or its gate decision is missing, not 'passed' or was made against
    another champion; PromotionBusy if another promotion is running; TrackingError if the store does not answer.
    """

    def choose(client: MlflowClient, champion: Version | None) -> Version:
        found = find_in(client, settings.model_name, version)
        if found is None:
            raise PromotionError(
                f"'{settings.model_name}' has no version or alias '{version}'; see 'hire registry show'."
            )
        if not force and (champion is None or found.number != champion.number):
            _check_decision(found, champion)
        return found

    because = f", forced: {force}" if force else ""
    return _move_champion(settings, f"promote {version}{because}", choose, {FORCED: force or "no"}, {})


def roll_back(settings: TrackingSettings, reason: str = "") -> Promotion:
    """Make the version that the champion replaced the champion again; a second call undoes the first.

    The version that was the champion needs another gate before it can be promoted again; `reason` is written to its
    tags. Raises PromotionError if the champion replaced no version, PromotionBusy and TrackingError as `promote`.
    """

    def choose(client: MlflowClient, champion: Version | None) -> Version:
        if champion is None:
            raise PromotionError(f"'{settings.model_name}' has no champion, so there is nothing to go back from.")
        before = champion.tags.get(REPLACES, NO_VERSION)
        found = None if before == NO_VERSION else find_in(client, settings.model_name, before)
        if found is None:
            raise PromotionError(
                f"Version {champion.number} of '{settings.model_name}' replaced no version that is still there. To put "
                "another in its place: hire promote --version N --force REASON."
            )
        return found

    because = f": {reason}" if reason else ""
    undone = f"{_now()} by {_user()}{because}"
    return _move_champion(settings, f"roll back{because}", choose, {}, {UNDONE: undone, DECISION: ROLLED_BACK})


def list_promotions(settings: TrackingSettings, limit: int = 5) -> list[str]:
    """Return the last promotions and rollbacks, the newest first, one line each."""
    with open_registry(settings, "list the promotions") as client:
        tickets = list_tickets(client, settings.model_name, limit)
    return [f"{_date(t.creation_timestamp)}  {t.description} ({t.tags.get(CLOSED, 'not ended')})" for t in tickets]


def _check_decision(version: Version, champion: Version | None) -> None:
    decision, current = version.tags.get(DECISION, "missing"), champion.number if champion else NO_VERSION
    against = version.tags.get(JUDGED_AGAINST, NO_VERSION)
    gate = f"hire gate --version {version.number}"
    if decision == ROLLED_BACK:
        raise PromotionError(
            f"Version {version.number} of '{version.name}' is not promoted: it was rolled back, "
            f"{version.tags.get(UNDONE, 'nobody noted why')}. Run '{gate}' to judge it again, or give a reason: "
            f"hire promote --version {version.number} --force REASON."
        )
    if decision != PASSED:
        raise PromotionError(
            f"Version {version.number} of '{version.name}' is not promoted: its gate decision is {decision}. Run "
            f"'{gate}' and see its reasons, or give your own: hire promote --version {version.number} --force REASON."
        )
    if against != current:
        raise PromotionError(
            f"Version {version.number} of '{version.name}' is not promoted: its gate compared it with version "
            f"{against}, but the champion is {current} now. Run '{gate}' again."
        )


Choose = Callable[["MlflowClient", Version | None], Version]


def _move_champion(
    settings: TrackingSettings, action: str, choose: Choose, new_tags: dict[str, str], old_tags: dict[str, str]
) -> Promotion:
    """Make the version that `choose` returns the champion, by the writes that the module describes.

    choose: called with the present champion; it raises PromotionError to refuse. It is called once before anything is
    written, and once more under the lease. new_tags, old_tags: for the new champion, and for the old one if there is.
    """
    name = settings.model_name
    with open_registry(settings, action) as client:
        target = choose(client, find_in(client, name, CHAMPION))
        with hold_lease(client, name, action, target) as lease:
            champion = find_in(client, name, CHAMPION)
            target = choose(client, champion)
            old = champion.number if champion else ""
            if target.number == old:
                return Promotion(name, old, target.tags.get(REPLACES, "").replace(NO_VERSION, ""), False)
            for key, value in ({REPLACES: old or NO_VERSION, DATE: _now()} | new_tags).items():
                lease.write(client.set_model_version_tag, name, target.number, key, truncate(value))
            if old:
                for key, value in old_tags.items():
                    lease.write(client.set_model_version_tag, name, old, key, truncate(value))
                lease.write(client.set_registered_model_alias, name, PREVIOUS, old)
            lease.write(client.set_registered_model_alias, name, CHAMPION, target.number)
    return Promotion(name, target.number, old, True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return "unknown"


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="seconds")
