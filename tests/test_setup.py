"""`make train`, the setup script, and the environment that MLflow uses for the project."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "sh", "cat", "cksum", "tr", "dirname", "mktemp", "grep", "rm", "mkdir", "chmod")


def _load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_conda_yaml_has_the_pins_of_the_lock_and_java() -> None:
    lock = (ROOT / "requirements.lock").read_text().split()
    *conda, pip = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    assert pip["pip"] == lock, "requirements.lock has changed: run make conda.yaml"
    assert "openjdk=17" in conda and "python=3.11" in conda


def test_the_lock_has_only_portable_pins() -> None:
    for pin in (ROOT / "requirements.lock").read_text().split():
        assert "+" not in pin and "://" not in pin and not pin.startswith("nvidia"), pin


def test_the_lock_has_every_dependency_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = sum(project["optional-dependencies"].values(), project["dependencies"])
    pinned = {pin.partition("==")[0] for pin in (ROOT / "requirements.lock").read_text().split()}
    assert set(dependencies) <= pinned


def test_make_train_runs_the_setup_and_mlflow_run() -> None:
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
    }  # set by `make test`
    make = subprocess.run(["make", "-n", "train"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    setup, command, *_ = make.stdout.strip().splitlines()
    assert setup == "scripts/setup.sh"
    assert command.endswith('.venv/bin:$PATH" mlflow run . -e train')


def test_mlproject_has_one_environment_and_all_entry_points() -> None:
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert project["python_env"] == "python_env.yaml"
    assert "conda_env" not in project and "docker_env" not in project, "MLflow refuses a project with two environments"
    assert set(project["entry_points"]) == {"train", "evaluate", "validate", "package"}


# --- scripts/setup.sh, with fake Python and pip that only record their arguments


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy the files that the setup reads. The only folder on PATH is bin/, without a Python."""
    for name in ("requirements.lock", "pyproject.toml", "python_env.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        path = shutil.which(tool)
        assert path, tool
        (tmp_path / "bin" / tool).symlink_to(path)
    return tmp_path


def _add_python(project: Path, name: str, works: bool = True, venv: bool = True) -> None:
    """Add a fake Python, which copies itself to .venv/bin/python and appends its arguments to the file `calls`."""
    make_venv = 'mkdir -p .venv/bin && cat "$0" >.venv/bin/python && chmod +x .venv/bin/python'
    text = f"""#!/bin/sh
[ "$1" = -c ] && exit {0 if works else 1}
case "$*" in *--version) exit 0 ;; esac
echo "{name} $*" >>{project}/calls
case "$*" in
    *requirements.lock) cat pip-output 2>/dev/null; [ ! -f pip-fails ] || exit 1 ;;
    "-m venv --clear .venv") {make_venv if venv else "exit 1"} ;;
    "-m venv --clear --without-pip .venv") {make_venv} ;;
    scripts/register_mlflow_env.py)
        echo mlflow-abc >.venv/.mlflow-environment
        mkdir -p "$MLFLOW_ENV_ROOT/mlflow-abc/bin"
        echo "{project}/.venv/bin" >"$MLFLOW_ENV_ROOT/mlflow-abc/bin/activate" ;;
esac
"""
    path = project / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def _run_setup(project: Path, **environ: str) -> tuple[int, str, list[str]]:
    """Run the setup. Return its exit status, its output, and the recorded calls."""
    (project / "calls").write_text("")
    env = {"PATH": str(project / "bin"), "HOME": str(project), "MLFLOW_ENV_ROOT": str(project / "envs")} | environ
    done = subprocess.run(["scripts/setup.sh"], cwd=project, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, (project / "calls").read_text().splitlines()


def test_setup_installs_only_once(project: Path) -> None:
    _add_python(project, "python3.11")
    status, output, calls = _run_setup(project)
    assert status == 0, output
    steps = ["-m venv", "requirements.lock", "--no-deps", "register_mlflow_env"]
    assert [next(step for step in steps if step in call) for call in calls] == steps
    assert _run_setup(project) == (0, "", [])


def test_setup_prints_each_stage_while_pip_installs(project: Path) -> None:
    _add_python(project, "python3.11")
    lines = [f"Collecting p{n}==1\n  Downloading p{n}.whl.metadata (1 kB)" for n in range(40)]
    lines += [f"Processing wheels/p{n}-1-py3-none-any.whl" for n in range(10)]  # from a folder (PIP_FIND_LINKS)
    lines += [f"Downloading p{n}.whl (1 kB)" for n in range(30)] + ["Installing collected packages: p0, p1"]
    (project / "pip-output").write_text("\n".join(lines) + "\n")
    status, output, _ = _run_setup(project)
    assert status == 0, output
    total = (project / "requirements.lock").read_text().count("==")
    stages = [
        "creating .venv with", f"installing {total} packages", "25 of", "50 of", f"25 of {total} packages downloaded",
        f"unpacking {total} packages", "installing hire itself", "registering .venv with MLflow",
    ]  # fmt: skip
    printed = output.splitlines()
    assert len(printed) == len(stages)
    assert all(line.startswith(f"setup: {stage}") for line, stage in zip(printed, stages, strict=True)), output


def test_setup_shows_the_output_of_pip_if_it_fails(project: Path) -> None:
    _add_python(project, "python3.11")
    (project / "pip-output").write_text("ERROR: no matching distribution\n")
    (project / "pip-fails").touch()
    status, output, calls = _run_setup(project)
    assert status != 0 and "ERROR: no matching distribution" in output and "pip could not install" in output
    assert not any("--no-deps" in call for call in calls)


def test_setup_installs_again_after_the_lock_changed(project: Path) -> None:
    _add_python(project, "python3.11")
    _run_setup(project)
    with (project / "requirements.lock").open("a") as lock:
        lock.write("one-more==1.0\n")
    calls = _run_setup(project)[2]
    assert any("requirements.lock" in call for call in calls)
    assert not any("-m venv" in call for call in calls), "the existing environment was created again"


def test_setup_repeats_an_interrupted_install(project: Path) -> None:
    _add_python(project, "python3.11")
    _run_setup(project)
    (project / ".venv" / ".installed").unlink()
    assert any("requirements.lock" in call for call in _run_setup(project)[2])


def test_setup_registers_again_if_the_environment_of_mlflow_was_deleted(project: Path) -> None:
    _add_python(project, "python3.11")
    _run_setup(project)
    shutil.rmtree(project / "envs")
    calls = _run_setup(project)[2]
    assert len(calls) == 1 and "register_mlflow_env" in calls[0]


def test_setup_skips_a_python_that_does_not_run(project: Path) -> None:
    _add_python(project, "python3.11", works=False)  # such as the pyenv shim of an inactive version
    _add_python(project, "python3")
    status, output, calls = _run_setup(project)
    assert status == 0, output
    assert calls[0].startswith("python3 -m venv")


def test_setup_uses_the_python_of_the_environment_variable(project: Path) -> None:
    _add_python(project, "python3.11")
    _add_python(project, "mine")
    assert _run_setup(project, PYTHON="mine")[2][0].startswith("mine -m venv")


def test_without_python_setup_prints_what_to_install(project: Path) -> None:
    status, output, _ = _run_setup(project)
    assert status != 0
    assert "Install Python 3.11" in output


def test_setup_works_without_ensurepip(project: Path) -> None:
    _add_python(project, "python3.11", venv=False)
    status, output, calls = _run_setup(project)
    assert status == 0, output
    assert any("--without-pip" in call for call in calls)
    assert any("-m pip --python .venv/bin/python install" in call for call in calls)


# --- the environment of MLflow


def test_activate_fails_with_advice_if_the_environment_was_deleted(tmp_path: Path) -> None:
    script = tmp_path / "activate"
    script.write_text(_load_script("register_mlflow_env").activate_script(tmp_path / "it's deleted"))
    done = subprocess.run(
        ["bash", "-c", f"source {script} && echo continued"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "continued" not in done.stdout
    assert "make setup" in done.stderr


@pytest.mark.live
def test_mlflow_uses_the_registered_interpreter_and_installs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that `mlflow run` reads the environment that we register. The script relies on private code of MLflow."""
    work, envs, tools = tmp_path / "work", tmp_path / "envs", tmp_path / "bin"
    work.mkdir()
    tools.mkdir()
    for name in ("bash", "git"):  # neither pyenv nor conda nor mlflow is on PATH
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    for name in ("python_env.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, work)
    (work / "MLproject").write_text(
        "name: probe\npython_env: python_env.yaml\nentry_points:\n  train:\n"
        '    command: python -c \'import sys; open("prefix", "w").write(sys.prefix)\'\n'
    )
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(envs))
    prefix = tmp_path / "a folder with spaces"
    (prefix / "bin").mkdir(parents=True)
    interpreter = prefix / "bin" / "python"
    interpreter.write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    folder = _load_script("register_mlflow_env").register(work, prefix)
    assert (prefix / ".mlflow-environment").read_text().strip() == folder.name

    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYENV", "CONDA", "HIRE"))}
    env |= {"PATH": str(tools), "MLFLOW_ENV_ROOT": str(envs), "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-m", "mlflow", "run", ".", "-e", "train"]
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (work / "prefix").read_text() == sys.prefix
    assert [path.name for path in envs.iterdir()] == [folder.name], "MLflow created another environment"
