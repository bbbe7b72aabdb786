"""Promotion and rollback: change the champion, with writes in an order that is safe if the process is killed.

Only one promotion runs at a time (hire_model/tracking/lease.py). Under the lease, a promotion reads the champion again
and makes four writes:

    1  tags of the new version: which version it replaces    (only a rollback reads them)
    2  alias previous -> the old champion                    (the old champion now has both aliases)
    3  alias champion -> the new version                     (this write changes the champion)
    4  the ticket of the lease is closed

If the process is killed before write 3, the old champion stays the champion; after it, the new version is.

A rollback also sets tags of the current champion, before write 2: who rolled it back, when and why, and the gate
decision 'rolled back', so that it needs another `hire gate` before it can be promoted again. These tags come before
write 3, because a kill after it could lose them. If the process is killed in between, the champion has these tags; this
is harmless, because only a promotion of that version reads them. The version to go back to comes from the tags of
write 1, not from the alias `previous`, which a killed promotion may already have changed.
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
    ARTIFACT_SHA256,
    CHALLENGER,
    CHAMPION,
    COMPARED_WITH,
    DECISION,
    FAILED,
    GATED_SHA256,
    NO_VERSION,
    PASSED,
    PREVIOUS,
    REASONS,
    Version,
    find_in,
    open_registry,
    suggest_alias,
    truncate,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Tags of a version; the last one says when, by whom and why it was rolled back.
REPLACES, FORCED, DATE, ROLLBACK = (
    "promotion.replaces", "promotion.forced", "promotion.date", "promotion.rolled_back",
)  # fmt: skip
ROLLED_BACK = "rolled back"  # a value of the tag gate.decision

Choose = Callable[["MlflowClient", Version | None], Version]
"""Return the version to promote, from the store's client and the current champion. Raise PromotionError to refuse."""


@dataclass(frozen=True)
class Promotion:
    """The numbers of the champion and of the version that it replaced ("" for none). changed: by this call."""

    name: str
    champion: str
    previous: str
    changed: bool

    def summary(self) -> str:
        """Return one sentence for the user."""
        if not self.changed:
            return f"Version {self.champion} of '{self.name}' is already the champion; nothing was changed."
        before = f", in place of version {self.previous}" if self.previous else ", the first one"
        return f"Version {self.champion} of '{self.name}' is the champion now{before}."


def promote(settings: TrackingSettings, version: str = CHALLENGER, force: str = "") -> Promotion:
    """Make a version the champion.

    Args:
        settings: name the store and the registered model.
        version: number or alias.
        force: reason to promote the version without a passed gate; recorded in the version's tags.

    Raises:
        PromotionError: there is no such version, or its gate decision is missing, not 'passed', or was made against
            another champion.
        ArtifactChangedError: the model differs from the one that was registered or that the gate judged.
        PromotionBusy: another promotion is running.
        TrackingError: the store does not answer.
    """

    checked = set()  # numbers of the versions with checked files; `choose` is called again under the lease

    def choose(client: MlflowClient, champion: Version | None) -> Version:
        found = find_in(client, settings.model_name, version)
        if found is None:
            raise PromotionError(
                f"'{settings.model_name}' has no version or alias '{version}'."
                f"{suggest_alias(client, settings.model_name, version)} See 'hire registry show'."
            )
        if not force and (champion is None or found.number != champion.number):
            _check_decision(found, champion)
        if found.number not in checked:
            _check_artifact(found, settings, force)
            checked.add(found.number)
        return found

    reason = f", forced: {force}" if force else ""
    return _move_champion(settings, f"promote {version}{reason}", choose, {FORCED: force or "no"}, {})


def roll_back(settings: TrackingSettings, reason: str = "") -> Promotion:
    """Make the version that the champion replaced the champion again. A second call reverses the first.

    The version that was the champion needs another gate before it can be promoted again. `reason` is recorded in its
    tags. Raise PromotionError if the champion replaced no version; other errors as in `promote`.
    """

    def choose(client: MlflowClient, champion: Version | None) -> Version:
        if champion is None:
            raise PromotionError(f"'{settings.model_name}' has no champion, so there is nothing to roll back.")
        replaced = champion.tags.get(REPLACES, NO_VERSION)
        found = None if replaced == NO_VERSION else find_in(client, settings.model_name, replaced)
        if found is None:
            raise PromotionError(
                f"Version {champion.number} of '{settings.model_name}' replaced no version that still exists. To make "
                "another version the champion: hire promote --version N --force REASON."
            )
        return found

    because = f": {reason}" if reason else ""
    note = f"{_format_now()} by {_get_user()}{because}"
    return _move_champion(settings, f"roll back{because}", choose, {}, {ROLLBACK: note, DECISION: ROLLED_BACK})


def list_promotions(settings: TrackingSettings, limit: int = 5) -> list[str]:
    """Return the last promotions and rollbacks, the newest first, one line each."""
    with open_registry(settings, "list the promotions") as client:
        tickets = list_tickets(client, settings.model_name, limit)
    return [f"{_format_date(t.creation_timestamp)}  {t.description} ({t.tags.get(CLOSED, 'open')})" for t in tickets]


def _check_decision(version: Version, champion: Version | None) -> None:
    """Raise PromotionError unless the version passed the gate against the current champion."""
    decision, current = version.tags.get(DECISION, "missing"), champion.number if champion else NO_VERSION
    compared_with = version.tags.get(COMPARED_WITH, NO_VERSION)
    refusal = f"Version {version.number} of '{version.name}' is not promoted"
    gate, force = f"hire gate --version {version.number}", f"hire promote --version {version.number} --force REASON"
    if decision == ROLLED_BACK:
        note = version.tags.get(ROLLBACK, "for an unknown reason")
        raise PromotionError(
            f"{refusal}: it was rolled back, {note}. Run '{gate}' to check it again, or give a reason: {force}."
        )
    if decision == FAILED:
        raise PromotionError(
            f"{refusal}: it failed its gate.\n{version.tags.get(REASONS, 'The reasons are not recorded.')}\n"
            f"To promote it all the same, give a reason: {force}."
        )
    if decision != PASSED:
        raise PromotionError(f"{refusal}: its gate decision is {decision}. Run '{gate}', or give a reason: {force}.")
    if compared_with != current:
        raise PromotionError(
            f"{refusal}: its gate compared it with version {compared_with}, but the champion is {current} now. "
            f"Run '{gate}' again."
        )


def _check_artifact(version: Version, settings: TrackingSettings, force: str) -> None:
    """Raise ArtifactChangedError if the files of the version are not those that were registered, or judged."""
    from hire_model.tracking import registry, trust  # imports torch

    if ARTIFACT_SHA256 not in version.tags and not version.tags.get(GATED_SHA256):
        trust.warn_unrecorded(version)
        return
    folder = registry.fetch(version.uri, settings)
    if not force:
        trust.check_gated(folder, version)


def _move_champion(
    settings: TrackingSettings, action: str, choose: Choose, new_tags: dict[str, str], old_tags: dict[str, str]
) -> Promotion:
    """Make the version that `choose` returns the champion, by the writes that the module's docstring lists.

    Args:
        settings: name the store and the registered model.
        action: description for the ticket and for error messages.
        choose: called before anything is written, and again under the lease.
        new_tags: tags of the new champion.
        old_tags: tags of the old champion, if there is one.
    """
    name = settings.model_name
    with open_registry(settings, action) as client:
        champion = find_in(client, name, CHAMPION)
        target = choose(client, champion)
        if champion is not None and target.number == champion.number:  # no ticket, so no entry in the history
            return _keep_champion(champion)
        with hold_lease(client, name, action, target) as lease:
            champion = find_in(client, name, CHAMPION)
            target = choose(client, champion)
            old = champion.number if champion else ""
            if target.number == old:
                return _keep_champion(target)
            for key, value in ({REPLACES: old or NO_VERSION, DATE: _format_now()} | new_tags).items():
                lease.write(client.set_model_version_tag, name, target.number, key, truncate(value))
            if old:
                for key, value in old_tags.items():
                    lease.write(client.set_model_version_tag, name, old, key, truncate(value))
                lease.write(client.set_registered_model_alias, name, PREVIOUS, old)
            lease.write(client.set_registered_model_alias, name, CHAMPION, target.number)
    return Promotion(name, target.number, old, True)


def _keep_champion(champion: Version) -> Promotion:
    return Promotion(champion.name, champion.number, champion.tags.get(REPLACES, "").replace(NO_VERSION, ""), False)


def _format_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _format_date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="seconds")


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id of a container may have no name
        return "unknown"
