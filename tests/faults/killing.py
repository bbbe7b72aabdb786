"""Kill a command at each point where it changes what other processes see, and check what is left.

A point is a rename, an exchange of two folders, the deletion of a folder, or a commit to MLflow's store that has
written a row. `kill -9` hits just before it; the kill after a point is the one before the next. The action runs in a
forked process, which shows its points through Python's audit events and SQLAlchemy's events, so the code has no hooks.

A slow action is not killed: it runs once, and its folder is copied at each point. The copy is what a kill would leave.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
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
    repeat    the repeated action, if it is another one
    stride    0: kill the action. Otherwise copy its folder at each point, and repeat it at every stride-th point
    """

    prepare: Action
    act: Action
    killed: Action
    finished: Action
    repeat: Action | None = None
    stride: int = 0


class _Points:
    """Count the points of this process, and call `hit` with the number and the name of each."""

    def __init__(self, hit: Callable[[int, str], None]) -> None:
        self.hit, self.count, self.busy = hit, 0, False

    def pass_point(self, name: str) -> None:
        if not self.busy:
            self.count, self.busy = self.count + 1, True
            self.hit(self.count, name)
            self.busy = False

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


def _run_in_fork(work: Callable[[], None], hit: Callable[[int, str], bool] | None = None) -> tuple[bool, str]:
    """Run `work` in a forked process. Return whether it was killed, and the names of its points, one per line.

    hit: called at each point; if it returns True, the process is killed.

    Raises AssertionError with the traceback if it failed.
    """
    reading, writing = os.pipe()

    def report(number: int, name: str) -> None:
        assert hit is not None
        if hit(number, name):
            os.write(writing, name.encode() + b"\n")
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            if hit:
                _Points(report).watch()
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
    return _run_once(scenario, folder) if scenario.stride else _run_each(scenario, folder)


def _run_each(scenario: Scenario, folder: Path) -> list[str]:
    points: list[str] = []
    while True:
        place, at = folder / f"kill-{len(points) + 1}", len(points) + 1
        place.mkdir(parents=True)
        _run_in_fork(lambda: scenario.prepare(place))  # noqa: B023  it runs at once
        killed, name = _run_in_fork(lambda: scenario.act(place), lambda number, _: number == at)  # noqa: B023
        if not killed:
            _run_in_fork(lambda: scenario.finished(place))  # noqa: B023
            return points
        points.append(name.strip())
        _check(scenario, place, points, at, repeat=True)


def _run_once(scenario: Scenario, folder: Path) -> list[str]:
    place, names = folder / "place", folder / "names"
    place.mkdir()
    _run_in_fork(lambda: scenario.prepare(place))

    def copy(number: int, name: str) -> bool:
        shutil.copytree(place, folder / f"point-{number}", symlinks=True)
        with names.open("a") as file:
            file.write(name + "\n")
        return False

    _run_in_fork(lambda: scenario.act(place), copy)
    _run_in_fork(lambda: scenario.finished(place))
    points = names.read_text().splitlines()
    for number in range(1, len(points) + 1):
        shutil.rmtree(place)
        (folder / f"point-{number}").rename(place)
        _check(scenario, place, points, number, repeat=number % scenario.stride == 0 or number == len(points))
    return points


def _check(scenario: Scenario, place: Path, points: list[str], number: int, repeat: bool) -> None:
    try:
        _run_in_fork(lambda: scenario.killed(place))
        if repeat:
            _run_in_fork(lambda: (scenario.repeat or scenario.act)(place))
            _run_in_fork(lambda: scenario.finished(place))
    except AssertionError as error:
        raise AssertionError(f"killed before point {number} ({points[number - 1]}): {error}") from None


def main(scenarios: dict[str, Scenario]) -> None:
    """Run the scenario named on the command line in the folder given there; print its points as JSON."""
    name, folder = sys.argv[1:]
    print(json.dumps(run(scenarios[name], Path(folder))))
