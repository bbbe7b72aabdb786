"""The direction of imports, as pyproject.toml writes it down."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_data_walks_one_way() -> None:
    # In a process of its own: import-linter sets up logging, and would silence this package's loggers for later tests.
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_contract_about_mlflow_leaves_no_module_out() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(set(found["source_modules"]) for found in contracts if found.get("forbidden_modules") == ["mlflow"])
    modules = {path.stem for path in (ROOT / "hire_model").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "hire_model").glob("*/__init__.py")}
    assert named == {f"hire_model.{name}" for name in (modules | packages) - {"__init__", "tracking"}}


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_idle_threads_soon_sleep_and_a_users_own_choice_stays(given: dict[str, str], expected: str) -> None:
    # Of any use only where it is said before torch is loaded.
    program = "import os, sys, hire_model; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    rest = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", program], env=rest | given, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [expected, "False"], done.stderr
