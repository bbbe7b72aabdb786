"""The promotion lease: only one process at a time may change who the champion is.

MLflow writes one alias at a time, and the last writer wins. So each promotion first creates a ticket: a version of the
registered model NAME-promotions. The store numbers these without gaps or duplicates. Of two promotions that start at
once, exactly one sees no older open ticket; the other one gives up. A ticket that was never closed, because its process
was killed, expires after LEASE_SECONDS. Its holder stops writing after half of that time, so a process that was
suspended cannot write after its ticket has expired. The tickets stay in the store as the history of promotions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hire_model.tracking.connection import TrackingError
from hire_model.tracking.versions import Version, truncate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

LEASE_SECONDS = 120.0  # a promotion is a few small writes with time-outs of seconds, so it takes a fraction of this
CLOSED = "closed"  # the tag that closes a ticket; its value is the outcome
_LOOK_BACK = 50  # tickets


class PromotionError(TrackingError):
    """This version cannot be promoted, or there is no version to go back to: the message says why and what to do."""


class PromotionBusy(PromotionError):  # noqa: N818  a temporary state, not a fault
    """Another promotion or rollback is running. The same call may succeed later."""


@dataclass(frozen=True)
class Lease:
    """The right to change the champion, from `started` (time.monotonic) on."""

    action: str
    started: float

    def write(self, call: Callable[..., Any], *arguments: str) -> None:
        """Make one write to the store. Raises PromotionBusy once half of the lease is over."""
        if time.monotonic() - self.started > LEASE_SECONDS / 2:
            raise PromotionBusy(
                f"{self.action} took longer than {LEASE_SECONDS / 2:.0f} s and was given up. Try again."
            )
        call(*arguments)


@contextmanager
def hold_lease(client: MlflowClient, name: str, action: str, target: Version) -> Iterator[Lease]:
    """Hold the lease on the registered model `name`. Raises PromotionBusy if another process holds it.

    action, target: described in the ticket. A ticket's age is a difference of times that the store wrote, so clocks of
    two machines do not matter.
    """
    book = f"{name}-promotions"
    started = time.monotonic()
    _create_book(client, book)
    ticket = client.create_model_version(
        book, target.uri, description=truncate(f"{action}: version {target.number} of {name}")
    )
    outcome = "given up"
    try:
        _refuse_if_busy(client, name, ticket)
        yield Lease(action, started)
        outcome = "done"
    finally:
        client.set_model_version_tag(book, str(ticket.version), CLOSED, outcome)


def list_tickets(client: MlflowClient, name: str, limit: int) -> list[ModelVersion]:
    """Return the last `limit` tickets of the registered model `name`, the newest first."""
    return client.search_model_versions(
        f"name = '{name}-promotions'", max_results=limit, order_by=["version_number DESC"]
    )


def _create_book(client: MlflowClient, book: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(book, description="A version per promotion and rollback; hire keeps it.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _refuse_if_busy(client: MlflowClient, name: str, own: ModelVersion) -> None:
    for ticket in list_tickets(client, name, _LOOK_BACK):
        age = (own.creation_timestamp - ticket.creation_timestamp) / 1000
        if int(ticket.version) < int(own.version) and CLOSED not in ticket.tags and age < LEASE_SECONDS:
            raise PromotionBusy(
                f"Another one is under way since {age:.0f} s ({ticket.description}). Try again when it is done; if its "
                f"process was killed, in {LEASE_SECONDS - age:.0f} s."
            )
