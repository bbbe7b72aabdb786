"""The direction of imports, as pyproject.toml writes it down."""

from __future__ import annotations

import tomllib
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parent.parent


def test_data_walks_one_way() -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, "run `make lint` to see which import goes the wrong way"


def test_the_contract_about_mlflow_leaves_no_module_out() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(set(found["source_modules"]) for found in contracts if found.get("forbidden_modules") == ["mlflow"])
    modules = {path.stem for path in (ROOT / "hire_model").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "hire_model").glob("*/__init__.py")}
    assert named == {f"hire_model.{name}" for name in (modules | packages) - {"__init__", "tracking"}}
