#!/bin/sh
# Sets up what is missing, and nothing else: .venv from requirements.lock, the project itself in it (editable), and
# .venv's interpreter as MLflow's environment for this project. A second run installs nothing and starts no Python.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
state="$({ cat requirements.lock pyproject.toml python_env.yaml scripts/*.sh scripts/register_mlflow_env.py; pwd -P; } | cksum | tr ' ' -)"

find_python() {
    # pyenv puts a python3.11 on PATH that may only say that it is not installed, so each candidate is tried.
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python 3.11 or newer with its venv module was found (tried python3.11, python3, python)." >&2
    echo "       Install Python 3.11, or name one: make setup PYTHON=/path/to/python3.11" >&2
    return 1
}

make_venv() {
    python="$(find_python)"
    echo "setup: making $venv with $("$python" --version)"
    # Some systems ship venv without ensurepip: then their own pip puts pip into the environment.
    if ! "$python" -m venv --clear "$venv" >"$log" 2>&1; then
        if ! { "$python" -m venv --clear --without-pip "$venv" && "$python" -m pip --python "$venv/bin/python" \
            install -qq pip; } >>"$log" 2>&1; then
            cat "$log" >&2
            echo "setup: $python can make no virtual environment with pip in it. On Debian and Ubuntu:" >&2
            echo "       apt-get install python3-venv python3-pip" >&2
            return 1
        fi
    fi
}

installed() { [ "$(cat "$venv/.installed" 2>/dev/null)" = "$state" ]; }

registered() {
    activate="${MLFLOW_ENV_ROOT:-$HOME/.mlflow/envs}/$(cat "$venv/.mlflow-environment" 2>/dev/null)/bin/activate"
    [ -f "$activate" ] && grep -qF "$(pwd -P)/$venv/bin" "$activate"
}

if ! installed; then
    log="$(mktemp)"
    trap 'rm -f "$log"' EXIT
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
    echo "setup: installing requirements.lock (a few minutes the first time)"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check -r requirements.lock
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
    rm -f "$venv/.mlflow-environment"
    echo "$state" >"$venv/.installed"
fi
if ! registered; then
    "$venv/bin/python" scripts/register_mlflow_env.py
fi
