"""Register this interpreter as the project's environment in MLflow, so that `mlflow run .` installs nothing.

MLflow keeps one environment per project in MLFLOW_ENV_ROOT (~/.mlflow/envs). The folder name is a hash of
python_env.yaml and its requirements. If the folder exists, `mlflow run` sources its bin/activate. Otherwise MLflow
requires pyenv or conda and installs everything again. This script writes the folder with an activate script for the
interpreter that runs it. The hash comes from two private functions of MLflow: docs/adr/001-mlflow-environment.md gives
the reason, tests/test_setup.py checks that they still work.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MARKER = ".mlflow-environment"

_ACTIVATE = """\
# Written by scripts/register_mlflow_env.py of the project Hire; `make setup` rewrites it.
if [ ! -x {python} ]; then
    echo "hire: the environment behind 'mlflow run' is gone ("{python}"). Run 'make setup' in the project." >&2
    return 1
fi
unset PYTHONHOME
export VIRTUAL_ENV={prefix}
export PATH={bin}:"$PATH"
"""


def environment_folder(project: Path = PROJECT) -> Path:
    """Return the folder in which MLflow looks for the environment of `project`."""
    from mlflow.utils.environment import _PythonEnv
    from mlflow.utils.virtualenv import _get_mlflow_virtualenv_root, _get_virtualenv_name

    environment = _PythonEnv.from_yaml(project / "python_env.yaml")
    before = Path.cwd()
    os.chdir(project)  # MLflow resolves "-r requirements.lock" relative to the working folder
    try:
        return Path(_get_mlflow_virtualenv_root()) / _get_virtualenv_name(environment, project)
    finally:
        os.chdir(before)


def activate_script(prefix: Path) -> str:
    """Return a script that activates the virtual environment at `prefix`, or fails with a message if it is missing."""
    quoted = {"prefix": prefix, "bin": prefix / "bin", "python": prefix / "bin" / "python"}
    return _ACTIVATE.format(**{name: shlex.quote(str(path)) for name, path in quoted.items()})


def register(project: Path = PROJECT, prefix: Path = Path(sys.prefix)) -> Path:
    """Write the activate script, and the name of MLflow's folder next to the interpreter. Return that folder."""
    folder = environment_folder(project)
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    activate = folder / "bin" / "activate"
    fresh = activate.with_suffix(f".{os.getpid()}")
    fresh.write_text(activate_script(prefix), "utf-8")
    fresh.replace(activate)
    (prefix / MARKER).write_text(folder.name + "\n", "utf-8")
    return folder


if __name__ == "__main__":
    if sys.prefix == sys.base_prefix:
        sys.exit("register_mlflow_env: run this script with the project's interpreter, .venv/bin/python.")
    print(f"setup: 'mlflow run .' now uses {sys.prefix} (registered in {register()})")
