"""Collect the provenance of a result: commit, command, package versions and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hire_model import __version__
from hire_model.settings import PACKAGE_FOLDER

_describe_starters: list[Callable[[], str]] = []  # of other packages, such as flows


def describe_commands_with(describe: Callable[[], str]) -> None:
    """Ask `describe` what started this process before its command line is used; "" means that it does not know.

    A scheduler's command line names its own program, such as engine.py, which nobody typed.
    """
    _describe_starters.append(describe)


def describe_command() -> str:
    """Return what a person can recognise: what a scheduler started, else the command line of this process."""
    started = next(filter(None, (describe() for describe in _describe_starters)), "")
    return started or shlex.join([_name_program(), *sys.argv[1:]])


def read_git_facts() -> dict[str, str]:
    """Return {"git.commit": ..., "git.dirty": "true" or "false"} of this package's checkout, or {} without one."""
    if not _run_git("ls-files", "__init__.py"):
        return {}  # installed, possibly inside another repository
    commit = _run_git("rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = _run_git("status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, "git.dirty": "true" if dirty else "false"}


def collect_facts() -> dict[str, str]:
    """Return commit, versions, machine, date and command of this process."""
    return {
        **read_git_facts(),
        "hire": __version__,
        "python": platform.python_version(),
        "torch": _read_version("torch"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": describe_command(),
    }


def _name_program() -> str:
    name = Path(sys.argv[0]).name
    return "hire" if name == "__main__.py" else name


def _read_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _run_git(*arguments: str) -> str:
    """Return git's output, or "" if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PACKAGE_FOLDER, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
