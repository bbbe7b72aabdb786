"""Promotion in real processes: two that promote at once, and one that is killed before each of its writes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import mlflow
import pytest
from promoting import kill_before_write, promote_at_barrier
from registrations import age_tickets, pass_gate, read_aliases, register_versions

from hire_model.settings import TrackingSettings
from hire_model.tracking.lease import PromotionBusy, PromotionError
from hire_model.tracking.promotion import promote, roll_back
from hire_model.tracking.versions import find

pytestmark = pytest.mark.live
ROUNDS = 4
# The numbers of a promotion's writes, from 0: two create the ticket (0, 1), three set tags of the new version (2-4),
# two move the aliases (5, 6), and one closes the ticket (7).
TICKET, PREVIOUS, CHAMPION, CLOSED = 1, 5, 6, 7


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Return a context for new processes that start in milliseconds, because MLflow is already imported."""
    context = multiprocessing.get_context("forkserver")
    stores = ["mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
    context.set_forkserver_preload(["mlflow", *stores, "hire_model.tracking.promotion"])
    yield context


def _run_killed(processes: ForkServerContext, settings: TrackingSettings, version: str, write: int) -> int | None:
    """Run `kill_before_write` in a process and return its exit code."""
    # The book of tickets is created again, so that its creation is a write.
    mlflow.MlflowClient().delete_registered_model(f"{settings.model_name}-promotions")
    process = processes.Process(target=kill_before_write, args=(settings, version, write))
    process.start()
    process.join(180)
    return process.exitcode


def _race(processes: ForkServerContext, settings: TrackingSettings, versions: tuple[str, str]) -> dict[str, str]:
    """Promote both versions at the same time in two processes; return version -> outcome."""
    outcomes, barrier = processes.Queue(), processes.Barrier(len(versions))
    racers = [
        processes.Process(target=promote_at_barrier, args=(settings, version, barrier, outcomes))
        for version in versions
    ]
    for process in racers:
        process.start()
    results = dict(outcomes.get(timeout=180) for _ in racers)
    for process in racers:
        process.join(60)
    return results


def _check_one_winner(processes: ForkServerContext, settings: TrackingSettings, rounds: int) -> None:
    register_versions(settings, 1 + 2 * rounds)
    pass_gate(settings, "1")
    promote(settings, "1")
    for number in range(rounds):
        champion = read_aliases(settings)["champion"]
        pair = str(2 + 2 * number), str(3 + 2 * number)
        for version in pair:
            pass_gate(settings, version, against=champion)
        outcomes = _race(processes, settings, pair)
        winners = [version for version, outcome in outcomes.items() if outcome == "won"]
        assert len(winners) == 1, outcomes
        assert read_aliases(settings) == {"champion": winners[0], "previous": champion}
        (loser,) = (outcome for outcome in outcomes.values() if outcome != "won")
        assert "Another promotion is running" in loser or f"the champion is {winners[0]} now" in loser


def test_only_one_of_two_simultaneous_promotions_wins_on_sqlite(
    processes: ForkServerContext, tracking: TrackingSettings
) -> None:
    _check_one_winner(processes, tracking.model_copy(update={"model_name": "race"}), ROUNDS)


def test_only_one_of_two_simultaneous_promotions_wins_on_a_server(
    processes: ForkServerContext, server: TrackingSettings
) -> None:
    _check_one_winner(processes, server.model_copy(update={"model_name": "race"}), 2)


@pytest.mark.parametrize("write", range(CLOSED + 1))
def test_a_promotion_killed_before_any_write_leaves_one_champion(
    processes: ForkServerContext, tracking: TrackingSettings, store: Path, write: int
) -> None:
    settings = tracking.model_copy(update={"model_name": f"killed-{write}"})
    register_versions(settings, 3)
    promote(settings, "1", force="the first")
    promote(settings, "2", force="the second")
    pass_gate(settings, "3", against="2")
    assert _run_killed(processes, settings, "3", write) == -signal.SIGKILL
    aliases = read_aliases(settings)
    assert aliases["champion"] == ("2" if write <= CHAMPION else "3"), "only the last alias decides"
    assert aliases["previous"] == ("1" if write <= PREVIOUS else "2")
    if write > TICKET:
        with pytest.raises(PromotionBusy, match="Another promotion is running"):
            roll_back(settings)
        age_tickets(store, 3600)
    if write % 2:
        assert roll_back(settings).champion == ("1" if write <= CHAMPION else "2"), "the champion before this one"
    else:
        again = promote(settings, "3")
        assert (again.champion, again.previous, again.changed) == ("3", "2", write <= CHAMPION)
        assert read_aliases(settings) == {"champion": "3", "previous": "2"}


@pytest.mark.parametrize("write", range(4, 10))
def test_a_rollback_killed_before_any_write_never_loses_its_mark(
    processes: ForkServerContext, tracking: TrackingSettings, store: Path, write: int
) -> None:
    """Writes: ticket (0, 1), tags of the next champion (2, 3) and the old one (4, 5), aliases (6, 7), close (8)."""
    settings = tracking.model_copy(update={"model_name": f"back-{write}"})
    register_versions(settings, 2)
    promote(settings, "1", force="the first")
    promote(settings, "2", force="the second")
    pass_gate(settings, "2", against="1")
    assert _run_killed(processes, settings, "", write) == (0 if write == 9 else -signal.SIGKILL)
    assert read_aliases(settings)["champion"] == ("2" if write <= 7 else "1")
    decision = find(settings, "2").tags["gate.decision"]
    assert decision == ("passed" if write <= 5 else "rolled back"), "marked before it stops being the champion"
    age_tickets(store, 3600)
    if write <= 7:
        assert roll_back(settings).champion == "1"
    with pytest.raises(PromotionError, match="rolled back"):
        promote(settings, "2")


def test_a_promotion_makes_no_more_writes_than_the_tests_count(
    processes: ForkServerContext, tracking: TrackingSettings
) -> None:
    settings = tracking.model_copy(update={"model_name": "counted"})
    register_versions(settings, 2)
    promote(settings, "1", force="the first")
    pass_gate(settings, "2", against="1")
    assert _run_killed(processes, settings, "2", CLOSED + 1) == 0, "there is no write at which to be killed"
    assert read_aliases(settings) == {"champion": "2", "previous": "1"}
