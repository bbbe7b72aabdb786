"""The direction of imports, as pyproject.toml writes it down."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

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
