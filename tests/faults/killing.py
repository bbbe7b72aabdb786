"""Kill a command at each point where it changes what other processes see, and check what is left.

A point is a rename, an exchange of two folders, the deletion of a folder, or a commit to MLflow's store that has
written a row. `kill -9` hits just before it; the kill after a point is the one before the next. The action runs in a
forked process, which shows its points through Python's audit events and SQLAlchemy's events, so the code has no hooks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Action = Callable[[Path], None]


@dataclass
class Scenario:
    """An action and its checks; all of them get the folder of the scenario.

    prepare   makes the state before the action
    act       what is killed, and then done again
    killed    checks what is left after a kill: nothing is lost, nothing half-done is believed
    finished  checks the result of the repeated action
    """

    prepare: Action
    act: Action
    killed: Action
    finished: Action
    repeat: Action | None = None
    points: list[str] = field(default_factory=list)


class _Points:
    """Count the points of this process and kill it at number `at`."""

    def __init__(self, at: int, log: int) -> None:
        self.at, self.log, self.count = at, log, 0

    def pass_point(self, name: str) -> None:
        self.count += 1
        if self.count == self.at:
            os.write(self.log, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Watch renames, exchanges and commits from here on."""
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        from hire_model import files

        written = False

        def see_statement(_: object, __: object, statement: str, *___: object) -> None:
            nonlocal written
            written = written or statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))

        def see_commit(_: object) -> None:
            nonlocal written
            if written:
                written = False
                self.pass_point("commit")

        def see_audit(name: str, arguments: tuple[Any, ...]) -> None:
            if name == "os.rename":
                self.pass_point(f"rename to {Path(os.fsdecode(arguments[1])).name}")
            elif name == "shutil.rmtree":
                self.pass_point("deletion of a folder")

        exchange = files.exchange

        def see_exchange(one: Path, other: Path) -> bool:
            self.pass_point(f"exchange of {other.name}")
            return exchange(one, other)

        files.exchange = see_exchange
        event.listen(Engine, "before_cursor_execute", see_statement)
        event.listen(Engine, "commit", see_commit)
        sys.addaudithook(see_audit)


def _run_in_fork(work: Callable[[], None], at: int = 0) -> tuple[bool, str]:
    """Run `work` in a forked process. Return whether it was killed at point `at`, and the name of the point.

    Raises AssertionError with the traceback if it failed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            if at:
                _Points(at, writing).watch()
            work()
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc()[-60_000:].encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, text
    return killed, text


def run(scenario: Scenario, folder: Path) -> list[str]:
    """Kill the action at each of its points, check, repeat it and check again. Return the names of the points."""
    points: list[str] = []
    while True:
        place = folder / f"kill-{len(points) + 1}"
        place.mkdir(parents=True)
        _run_in_fork(lambda: scenario.prepare(place))  # noqa: B023  it runs at once
        killed, name = _run_in_fork(lambda: scenario.act(place), len(points) + 1)  # noqa: B023
        try:
            if killed:
                _run_in_fork(lambda: scenario.killed(place))  # noqa: B023
                _run_in_fork(lambda: (scenario.repeat or scenario.act)(place))  # noqa: B023
            _run_in_fork(lambda: scenario.finished(place))  # noqa: B023
        except AssertionError as error:
            raise AssertionError(f"killed before point {len(points) + 1} ({name}): {error}") from None
        if not killed:
            return points
        points.append(name)


def main(scenarios: dict[str, Scenario]) -> None:
    """Run the scenario named on the command line in the folder given there; print its points as JSON."""
    name, folder = sys.argv[1:]
    print(json.dumps(run(scenarios[name], Path(folder))))
