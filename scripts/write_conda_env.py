"""Write conda.yaml: the pins of requirements.lock, plus Python and Java, which pip cannot install."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

_HEAD = """\
# Written by scripts/write_conda_env.py from requirements.lock ("make conda.yaml"); edit the lock, not this file.
# For conda users only: MLproject names python_env.yaml, because MLflow takes no project that has both.
name: hire
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - openjdk=17
  - pip:
"""


def conda_env(lock: str) -> str:
    """Return the text of conda.yaml for the text of a lock file."""
    pins = [line for line in map(str.strip, lock.splitlines()) if line and not line.startswith("#")]
    return _HEAD + "".join(f"      - {pin}\n" for pin in pins)


if __name__ == "__main__":
    (PROJECT / "conda.yaml").write_text(conda_env((PROJECT / "requirements.lock").read_text("utf-8")), "utf-8")
