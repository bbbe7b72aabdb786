"""Tell MLflow that this interpreter is the environment of the project, so that `mlflow run .` starts at once.

MLflow keeps an environment for each project under MLFLOW_ENV_ROOT (~/.mlflow/envs), in a folder named by a hash over
python_env.yaml and the requirements it names. Where that folder exists, `mlflow run` only sources its bin/activate;
where it does not, MLflow wants pyenv or conda and installs everything a second time. This script writes that folder
with an activate script that leads to the interpreter it runs under. The hash comes from two private functions of
MLflow: docs/adr/001-mlflow-environment.md says why, tests/test_setup.py checks that they still mean the same.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MARKER = ".mlflow-environment"

_ACTIVATE = """\
# Written by scripts/register_mlflow_env.py of the project Hire; `make setup` writes it anew.
if [ ! -x {python} ]; then
    echo "hire: the environment behind 'mlflow run' is gone ("{python}"). Run 'make setup' in the project." >&2
    return 1
fi
unset PYTHONHOME
export VIRTUAL_ENV={prefix}
export PATH={bin}:"$PATH"
"""


def environment_folder(project: Path = PROJECT) -> Path:
    """Where MLflow will look for the environment of `project`."""
    from mlflow.utils.environment import _PythonEnv
    from mlflow.utils.virtualenv import _get_mlflow_virtualenv_root, _get_virtualenv_name

    environment = _PythonEnv.from_yaml(project / "python_env.yaml")
    before = Path.cwd()
    os.chdir(project)  # MLflow reads "-r requirements.lock" relative to the project
    try:
        return Path(_get_mlflow_virtualenv_root()) / _get_virtualenv_name(environment, project)
    finally:
        os.chdir(before)


def activate_script(prefix: Path) -> str:
    """The script that leads to the virtual environment at `prefix`; it fails with a clear word if that is gone."""
    quoted = {"prefix": prefix, "bin": prefix / "bin", "python": prefix / "bin" / "python"}
    return _ACTIVATE.format(**{name: shlex.quote(str(path)) for name, path in quoted.items()})


def register(project: Path = PROJECT, prefix: Path = Path(sys.prefix)) -> Path:
    """Write the activate script, and beside the interpreter the name of MLflow's folder. Returns that folder."""
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
        sys.exit("register_mlflow_env: run me with the project's own interpreter, .venv/bin/python.")
    print(f"setup: 'mlflow run .' now uses {sys.prefix} (registered in {register()})")
