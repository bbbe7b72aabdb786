"""Real processes: two that promote at once, and one that is killed between each pair of its writes."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import mlflow
import pytest
from promoting import killed_before, race
from registrations import age_tickets, aliases, pass_gate, register

from hire_model.settings import TrackingSettings
from hire_model.tracking.lease import PromotionBusy, PromotionError
from hire_model.tracking.promotion import promote, roll_back
from hire_model.tracking.versions import find

pytestmark = pytest.mark.live
ROUNDS = 4
# A promotion's writes: two make the ticket, three tags say whom it replaces, two aliases, one closes the ticket.
TICKET, PREVIOUS, CHAMPION, CLOSED = 1, 5, 6, 7


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Processes with MLflow imported already: a clean one each, in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    stores = ["mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
    context.set_forkserver_preload(["mlflow", *stores, "hire_model.tracking.promotion"])
    yield context


def _race(processes: ForkServerContext, settings: TrackingSettings, versions: tuple[str, str]) -> dict[str, str]:
    answers = processes.Queue()
    start = time.time() + 1.5
    both = [processes.Process(target=race, args=(settings, version, start, answers)) for version in versions]
    for process in both:
        process.start()
    found = dict(answers.get(timeout=180) for _ in both)
    for process in both:
        process.join(60)
    return found


def _rounds(processes: ForkServerContext, settings: TrackingSettings, rounds: int) -> None:
    register(settings, 1 + 2 * rounds)
    pass_gate(settings, "1")
    promote(settings, "1")
    for number in range(rounds):
        champion = aliases(settings)["champion"]
        pair = str(2 + 2 * number), str(3 + 2 * number)
        for version in pair:
            pass_gate(settings, version, against=champion)
        answers = _race(processes, settings, pair)
        winners = [version for version, answer in answers.items() if answer == "won"]
        assert len(winners) == 1, answers
        assert aliases(settings) == {"champion": winners[0], "previous": champion}
        (loser,) = (answer for answer in answers.values() if answer != "won")
        assert "under way" in loser or f"the champion is {winners[0]} now" in loser


def test_of_two_at_once_one_wins_on_sqlite(processes: ForkServerContext, tracking: TrackingSettings) -> None:
    _rounds(processes, tracking.model_copy(update={"model_name": "race"}), ROUNDS)


def test_of_two_at_once_one_wins_on_a_server(processes: ForkServerContext, server: TrackingSettings) -> None:
    _rounds(processes, server.model_copy(update={"model_name": "race"}), 2)


@pytest.mark.parametrize("write", range(CLOSED + 1))
def test_killed_before_each_write(
    processes: ForkServerContext, tracking: TrackingSettings, store: Path, write: int
) -> None:
    settings = tracking.model_copy(update={"model_name": f"killed-{write}"})
    register(settings, 3)
    promote(settings, "1", force="the first")
    promote(settings, "2", force="the second")
    mlflow.MlflowClient().delete_registered_model(f"{settings.model_name}-promotions")  # so that its creation counts
    pass_gate(settings, "3", against="2")
    process = processes.Process(target=killed_before, args=(settings, "3", write))
    process.start()
    process.join(180)
    assert process.exitcode == -signal.SIGKILL
    after = aliases(settings)  # the store as the dead process left it
    assert after["champion"] == ("2" if write <= CHAMPION else "3"), "only the last alias decides"
    assert after["previous"] == ("1" if write <= PREVIOUS else "2")
    if write > TICKET:
        with pytest.raises(PromotionBusy, match="under way"):
            roll_back(settings)
        age_tickets(store, 3600)
    if write % 2:
        assert roll_back(settings).champion == ("1" if write <= CHAMPION else "2"), "back to what was in force before"
    else:
        again = promote(settings, "3")
        assert (again.champion, again.previous, again.changed) == ("3", "2", write <= CHAMPION)
        assert aliases(settings) == {"champion": "3", "previous": "2"}


@pytest.mark.parametrize("write", range(4, 10))
def test_a_rollback_killed_before_each_write_after_its_ticket(
    processes: ForkServerContext, tracking: TrackingSettings, store: Path, write: int
) -> None:
    """Two writes are the ticket, two tags on the champion to be, two on the old one, two aliases; one closes it."""
    settings = tracking.model_copy(update={"model_name": f"back-{write}"})
    register(settings, 2)
    promote(settings, "1", force="the first")
    promote(settings, "2", force="the second")
    mlflow.MlflowClient().delete_registered_model(f"{settings.model_name}-promotions")
    pass_gate(settings, "2", against="1")
    process = processes.Process(target=killed_before, args=(settings, "", write))
    process.start()
    process.join(180)
    assert process.exitcode == (0 if write == 9 else -signal.SIGKILL)
    assert aliases(settings)["champion"] == ("2" if write <= 7 else "1")
    decision = find(settings, "2").tags["gate.decision"]
    assert decision == ("passed" if write <= 5 else "rolled back"), "never out of force without the mark"
    age_tickets(store, 3600)
    if write <= 7:
        assert roll_back(settings).champion == "1"
    with pytest.raises(PromotionError, match="rolled back"):
        promote(settings, "2")


def test_the_writes_are_those_that_are_counted(processes: ForkServerContext, tracking: TrackingSettings) -> None:
    """Killed one write later, nobody is killed: the numbers above are all there are."""
    settings = tracking.model_copy(update={"model_name": "counted"})
    register(settings, 2)
    promote(settings, "1", force="the first")
    mlflow.MlflowClient().delete_registered_model("counted-promotions")
    pass_gate(settings, "2", against="1")
    process = processes.Process(target=killed_before, args=(settings, "2", CLOSED + 1))
    process.start()
    process.join(180)
    assert process.exitcode == 0 and aliases(settings) == {"champion": "2", "previous": "1"}
