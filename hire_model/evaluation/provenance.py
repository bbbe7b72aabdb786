"""Collect the provenance of a result: commit, command, package versions and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hire_model import __version__
from hire_model.settings import PACKAGE_FOLDER


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
        "command": shlex.join([_name_program(), *sys.argv[1:]]),
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
