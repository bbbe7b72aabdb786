"""Imports follow the contracts in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_import_contracts_hold() -> None:
    # In a subprocess, because import-linter configures logging and would disable the loggers of later tests.
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_mlflow_contract_lists_every_module() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = next(
        set(contract["source_modules"]) for contract in contracts if contract.get("forbidden_modules") == ["mlflow"]
    )
    modules = {path.stem for path in (ROOT / "hire_model").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "hire_model").glob("*/__init__.py")}
    assert listed == {f"hire_model.{name}" for name in (modules | packages) - {"__init__", "tracking"}}


@pytest.mark.parametrize(
    ("environment", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_the_spin_count_is_set_before_torch_is_loaded_unless_the_user_set_it(
    environment: dict[str, str], expected: str
) -> None:
    program = "import os, sys, hire_model; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    inherited = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=inherited | environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.split() == [expected, "False"], done.stderr
