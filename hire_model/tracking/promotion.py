"""Promotion and rollback: which version is the champion, so that a crash or a second process does no harm.

MLflow writes one alias at a time, and the last writer wins. So one at a time may write: each promotion first draws a
ticket, a version of the registered model NAME-promotions. The store numbers these without gaps or doubles, so of two
that come at once exactly one sees no older ticket that is still open, and the other gives up. A ticket that was never
closed (its process was killed) lapses after LEASE seconds, and its holder, should it only have slept, writes nothing
more in the second half of that time.

Under its ticket a promotion reads the champion again, and writes in this order:

    1  on the new version, which one it replaces     (nobody looks at that yet)
    2  alias previous -> the old champion            (the old champion is in force, under two names)
    3  alias champion -> the new version             (the one write that decides)
    4  the ticket is closed

A rollback also writes, before 3, on the version that it takes out of force: who did that, when and why, and the gate's
decision 'rolled back', so that it is not promoted again before another `hire gate`. Killed in between, the champion in
force bears that mark, which only a promotion reads and hence harms nothing; written after 3 it might be missing.

Killed before 3, the old champion is in force; after it, the new one. What a rollback goes back to is read from what 1
wrote on the champion, so an alias `previous` that is half-way does not mislead it. The tickets stay as the history.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hire_model.settings import TrackingSettings
from hire_model.tracking.run import TrackingError
from hire_model.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    DECISION,
    JUDGED_AGAINST,
    NOBODY,
    PASSED,
    PREVIOUS,
    Version,
    cut,
    find_in,
    registry,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

LEASE = 120.0  # seconds; a few small writes with time-outs of seconds take a fraction of it
REPLACES, FORCED, DATE = "promotion.replaces", "promotion.forced", "promotion.date"
ROLLED_BACK, UNDONE = "rolled back", "promotion.rolled_back"  # a gate's decision; when, by whom and why
_CLOSED = "closed"
_LOOK_BACK = 50  # tickets


class PromotionError(TrackingError):
    """This version is not promoted, or there is nothing to go back to: the message says why and what to do."""


class PromotionBusy(PromotionError):  # noqa: N818  a state that passes, and no fault
    """Another promotion or rollback is under way. The same call may succeed later."""


@dataclass(frozen=True)
class Promotion:
    """Who is in force now, who was before ("" for nobody), and whether this call changed it."""

    name: str
    champion: str
    previous: str
    changed: bool

    def summary(self) -> str:
        """In a sentence."""
        if not self.changed:
            return f"Version {self.champion} of '{self.name}' is the champion already; nothing was changed."
        before = f", in place of version {self.previous}" if self.previous else ", the first one"
        return f"Version {self.champion} of '{self.name}' is the champion now{before}."


def promote(settings: TrackingSettings, version: str = CHALLENGER, force: str = "") -> Promotion:
    """Make a version, by number or alias, the champion.

    force: a reason for promoting it without a passed gate; it is recorded on the version.
    Raises PromotionError where its gate is missing, failed or was held against another champion, PromotionBusy where
    another promotion is under way, TrackingError where the store does not answer or knows no such version.
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
    return _move(settings, f"promote {version}{because}", choose, {FORCED: force or "no"}, {})


def rollback(settings: TrackingSettings, reason: str = "") -> Promotion:
    """Make the version that the champion replaced the champion again; once more goes forward again.

    The version that goes out of force wants another gate before it is promoted again; reason: noted on it.
    Raises PromotionError where the champion replaced nobody, PromotionBusy and TrackingError as `promote`.
    """

    def choose(client: MlflowClient, champion: Version | None) -> Version:
        if champion is None:
            raise PromotionError(f"'{settings.model_name}' has no champion, so there is nothing to go back from.")
        before = champion.tags.get(REPLACES, NOBODY)
        found = None if before == NOBODY else find_in(client, settings.model_name, before)
        if found is None:
            raise PromotionError(
                f"Version {champion.number} of '{settings.model_name}' replaced no version that is still there. To put "
                "another in its place: hire promote --version N --force REASON."
            )
        return found

    because = f": {reason}" if reason else ""
    undone = f"{_now()} by {_user()}{because}"
    return _move(settings, f"roll back{because}", choose, {}, {UNDONE: undone, DECISION: ROLLED_BACK})


def history(settings: TrackingSettings, most: int = 5) -> list[str]:
    """The last promotions and rollbacks, the newest first, a line each."""
    with registry(settings, "list the promotions") as client:
        tickets = _tickets(client, _book(settings.model_name), most)
    return [f"{_date(t.creation_timestamp)}  {t.description} ({t.tags.get(_CLOSED, 'not ended')})" for t in tickets]


def _check_decision(version: Version, champion: Version | None) -> None:
    decision, now = version.tags.get(DECISION, "missing"), champion.number if champion else NOBODY
    against = version.tags.get(JUDGED_AGAINST, NOBODY)
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
    if against != now:
        raise PromotionError(
            f"Version {version.number} of '{version.name}' is not promoted: its gate compared it with version "
            f"{against}, but the champion is {now} now. Run '{gate}' again."
        )


Choose = Callable[["MlflowClient", Version | None], Version]


def _move(
    settings: TrackingSettings, what: str, choose: Choose, tags: dict[str, str], on_old: dict[str, str]
) -> Promotion:
    """Under a ticket: read the champion, choose, and write in the order that the module describes.

    tags: for the new champion; on_old: for the one before, if there is one.
    """
    name = settings.model_name
    with registry(settings, what) as client:
        target = choose(client, find_in(client, name, CHAMPION))  # refuse early, before anything is written
        with _ticket(client, name, what, target) as check:
            champion = find_in(client, name, CHAMPION)
            target = choose(client, champion)
            before = champion.number if champion else ""
            if target.number == before:
                return Promotion(name, target.number, target.tags.get(REPLACES, "").replace(NOBODY, ""), False)
            for key, value in ({REPLACES: before or NOBODY, DATE: _now()} | tags).items():
                check()
                client.set_model_version_tag(name, target.number, key, cut(value))
            for key, value in on_old.items() if before else ():
                check()
                client.set_model_version_tag(name, before, key, cut(value))
            if before:
                check()
                client.set_registered_model_alias(name, PREVIOUS, before)
            check()
            client.set_registered_model_alias(name, CHAMPION, target.number)
    return Promotion(name, target.number, before, True)


@contextmanager
def _ticket(client: MlflowClient, name: str, what: str, target: Version) -> Iterator[Callable[[], None]]:
    """Hold the one right to write. Gives a function that raises once half of the lease is over; call it before writing.

    Ages are differences of times that the store wrote, so the clocks of two machines do not matter.
    """
    book = _book(name)
    started = time.monotonic()
    _create_book(client, book)
    mine = client.create_model_version(book, target.uri, description=cut(f"{what}: version {target.number} of {name}"))
    outcome = "given up"
    try:
        _refuse_second(client, book, mine)

        def check() -> None:
            if time.monotonic() - started > LEASE / 2:
                raise PromotionBusy(f"{what} took longer than {LEASE / 2:.0f} s and was given up. Try again.")

        yield check
        outcome = "done"
    finally:
        client.set_model_version_tag(book, str(mine.version), _CLOSED, outcome)


def _refuse_second(client: MlflowClient, book: str, mine: ModelVersion) -> None:
    for ticket in _tickets(client, book, _LOOK_BACK):
        age = (mine.creation_timestamp - ticket.creation_timestamp) / 1000
        if int(ticket.version) < int(mine.version) and _CLOSED not in ticket.tags and age < LEASE:
            raise PromotionBusy(
                f"Another one is under way since {age:.0f} s ({ticket.description}). Try again when it is done; if its "
                f"process was killed, in {LEASE - age:.0f} s."
            )


def _tickets(client: MlflowClient, book: str, most: int) -> list[ModelVersion]:
    return client.search_model_versions(f"name = '{book}'", max_results=most, order_by=["version_number DESC"])


def _book(name: str) -> str:
    return f"{name}-promotions"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return "unknown"


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="seconds")


def _create_book(client: MlflowClient, book: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(book, description="A version per promotion and rollback; hire keeps it.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
