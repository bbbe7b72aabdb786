"""The wheel contains all files of the packages, and the command line runs from it outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hire_model import __version__

ROOT = Path(__file__).parent.parent
PACKAGES = ("hire_model", "expectations", "flows", "serving")
pytestmark = pytest.mark.live


def run(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run this Python with `arguments`, and return its standard output."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the sources, so that the build leaves no files in the checkout."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, ".", cwd=sources)
    return next(out.glob("*.whl"))


def test_the_wheel_contains_every_file_of_the_packages(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}
    assert sorted(expected - packed) == []
    for folder in ("hire_model/recipes", "hire_model/presets", "expectations/suites", "serving/page"):
        assert any(name.startswith(f"{folder}/") for name in packed), folder
    assert wheel.name == f"hire_model-{__version__}-py3-none-any.whl"


def test_commands_run_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=elsewhere)

    def run_installed(*arguments: str) -> str:
        return run(*arguments, cwd=elsewhere, PYTHONPATH=str(target), COLUMNS="120")

    for package in PACKAGES:
        assert run_installed("-c", f"import {package}; print({package}.__file__)").startswith(str(target)), package
    assert run_installed("-m", "hire_model", "--version") == f"hire {__version__}\n"
    assert "recipe synthetic" in run_installed("-m", "hire_model", "config", "show", "--recipe", "synthetic")
    run_installed("-m", "hire_model", "data", "synth", "--out", "scenes", "--train", "4", "--dev", "2", "--test", "2")
    assert "0 errors" in run_installed("-m", "hire_model", "data", "verify", "scenes")
    assert "retrain" in run_installed("-m", "hire_model", "flow", "--help")
