"""Run the commands of the README: every code block after a line `<!-- test -->`, in order."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = {
    "HIRE_TRAIN__EPOCHS": "1",
    "HIRE_TRAIN__THREADS": "1",
    "HIRE_DATA__TRAIN_IMAGES": "64",
    "HIRE_DATA__DEV_IMAGES": "16",
    "HIRE_MODEL__PRESET": "tiny",
    "HIRE_EVALUATE__BOOTSTRAP": "20",
    "HIRE_EVALUATE__EXAMPLES": "1",
    "HIRE_GATE__MIN_SHUFFLE": "0",  # one epoch on 64 pictures is too short to learn word order
    "HIRE_GATE__MAX_ECE": "1",
}
_BLOCK = re.compile(r"<!-- test -->\n```(sh|python)\n(.*?)```", re.DOTALL)


def _read_blocks() -> list[tuple[str, str]]:
    return _BLOCK.findall((ROOT / "README.md").read_text("utf-8"))


def test_the_readme_has_the_main_commands() -> None:
    text = "".join(body for _, body in _read_blocks())
    for command in ("mlflow run . -e train", "hire data synth", "hire train", "hire evaluate", "hire package"):
        assert command in text
    assert "Scorer.load" in text


@pytest.mark.live
def test_the_commands_of_the_readme_succeed(tmp_path: Path) -> None:
    work = tmp_path / "hire"
    work.mkdir()
    for name in ("MLproject", "python_env.yaml", "requirements.lock", "hire_model"):
        (work / name).symlink_to(ROOT / name)
    (work / ".venv").symlink_to(sys.prefix)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "HIRE_"))}
    env |= SMALL | {"MLFLOW_ENV_ROOT": str(tmp_path / "envs"), "DO_NOT_TRACK": "true"}
    _register(work, env)
    shell, python = ("".join(body for kind, body in _read_blocks() if kind == wanted) for wanted in ("sh", "python"))
    for command in (
        ["bash", "-euxc", shell],
        [sys.executable, "-c", python],
    ):  # one shell for all commands, as for a reader
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for output in ("figures.json", "report.html", "runs/latest/model/config.json", "mlflow.db"):
        assert (work / output).is_file(), output


def _register(work: Path, env: dict[str, str]) -> None:
    """Register the environment for the folder of this test, as `make setup` does."""
    spec = importlib.util.spec_from_file_location("register_mlflow_env", ROOT / "scripts" / "register_mlflow_env.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = os.environ.get("MLFLOW_ENV_ROOT")
    os.environ["MLFLOW_ENV_ROOT"] = env["MLFLOW_ENV_ROOT"]
    try:
        module.register(work, Path(sys.prefix))
    finally:
        del os.environ["MLFLOW_ENV_ROOT"]
        if before:
            os.environ["MLFLOW_ENV_ROOT"] = before
