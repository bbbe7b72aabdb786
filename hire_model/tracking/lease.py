"""The promotion lease: only one process at a time may change the champion.

MLflow writes one alias at a time, and the last writer wins. So each promotion first creates a ticket: a version of the
registered model NAME-promotions. The store numbers tickets without gaps or duplicates. If two promotions start at the
same time, only one sees no older open ticket; the other one stops with PromotionBusy.

A ticket stays open if its process is killed. It expires after LEASE_SECONDS. The holder stops writing after half of
that time, so a process that was suspended cannot write after its ticket has expired. The tickets remain in the store
as the history of promotions.
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

LEASE_SECONDS = 120.0  # much more than a promotion needs: a few small writes with a time limit of seconds each
CLOSED = "closed"  # the tag that closes a ticket; its values:
_DONE, _ABORTED = "done", "given up"
_MAX_TICKETS = 50  # how many of the newest tickets are checked


class PromotionError(TrackingError):
    """A promotion or a rollback is refused. The message says why and what to do."""


class PromotionBusy(PromotionError):  # noqa: N818  a temporary state, not a fault
    """Another promotion or rollback is running. The same call may succeed later."""


@dataclass(frozen=True)
class Lease:
    """The right to change the champion. started: time.monotonic() at its start."""

    action: str
    started: float

    def write(self, call: Callable[..., Any], *arguments: str) -> None:
        """Make one write to the store. Raise PromotionBusy if half of the lease is over."""
        if time.monotonic() - self.started > LEASE_SECONDS / 2:
            raise PromotionBusy(f"{self.action}: stopped after {LEASE_SECONDS / 2:.0f} s, its time limit. Try again.")
        call(*arguments)


@contextmanager
def hold_lease(client: MlflowClient, name: str, action: str, target: Version) -> Iterator[Lease]:
    """Hold the lease on the registered model `name`. Raise PromotionBusy if another process holds it.

    action, target: recorded in the ticket's description.
    """
    book = f"{name}-promotions"
    started = time.monotonic()
    _create_book(client, book)
    ticket = client.create_model_version(
        book, target.uri, description=truncate(f"{action}: version {target.number} of {name}")
    )
    outcome = _ABORTED
    try:
        _refuse_if_busy(client, name, ticket)
        yield Lease(action, started)
        outcome = _DONE
    finally:
        client.set_model_version_tag(book, str(ticket.version), CLOSED, outcome)


def list_tickets(client: MlflowClient, name: str, limit: int) -> list[ModelVersion]:
    """Return the last `limit` tickets of the registered model `name`, the newest first."""
    return client.search_model_versions(
        f"name = '{name}-promotions'", max_results=limit, order_by=["version_number DESC"]
    )


def _create_book(client: MlflowClient, book: str) -> None:
    """Create the registered model whose versions are the tickets, if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(book, description="A version per promotion and rollback; hire keeps it.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _refuse_if_busy(client: MlflowClient, name: str, mine: ModelVersion) -> None:
    """Raise PromotionBusy if an older ticket is open and has not expired."""
    for ticket in list_tickets(client, name, _MAX_TICKETS):
        # Both times were written by the store, so the clocks of two machines do not matter.
        age = (mine.creation_timestamp - ticket.creation_timestamp) / 1000
        if int(ticket.version) < int(mine.version) and CLOSED not in ticket.tags and age < LEASE_SECONDS:
            raise PromotionBusy(
                f"Another promotion is running since {age:.0f} s ({ticket.description}). Try again when it has ended; "
                f"if its process was killed, in {LEASE_SECONDS - age:.0f} s."
            )
