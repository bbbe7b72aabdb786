"""Where a result comes from: the code's commit, the command, package versions and the machine."""

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
    """Return {"git.commit": ..., "git.dirty": "true" or "false"} of this package's checkout, or {} outside of one."""
    if not _git("ls-files", "__init__.py"):
        return {}  # installed, possibly inside another repository
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = _git("status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, "git.dirty": "true" if dirty else "false"}


def collect_facts() -> dict[str, str]:
    """Return commit, versions, machine, date and command of this process."""
    return {
        **read_git_facts(),
        "hire": __version__,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([_program(), *sys.argv[1:]]),
    }


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "hire" if name == "__main__.py" else name


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PACKAGE_FOLDER, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
