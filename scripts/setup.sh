#!/bin/sh
# Set up what is missing: .venv from requirements.lock, the project in it (editable), and its interpreter as MLflow's
# environment for this project. If everything is up to date, install nothing and start no Python.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
state="$({ cat requirements.lock pyproject.toml python_env.yaml scripts/*.sh scripts/register_mlflow_env.py; pwd -P; } | cksum | tr ' ' -)"

find_python() {
    # Run each candidate: pyenv puts a python3.11 on PATH that may only print that it is not installed.
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python 3.11 or newer with its venv module was found (tried python3.11, python3, python)." >&2
    echo "       Install Python 3.11, or pass its path: make setup PYTHON=/path/to/python3.11" >&2
    return 1
}

make_venv() {
    python="$(find_python)"
    echo "setup: creating $venv with $("$python" --version)"
    # Some systems have venv without ensurepip. Then install pip into the environment with the system's pip.
    if ! "$python" -m venv --clear "$venv" >"$log" 2>&1; then
        if ! { "$python" -m venv --clear --without-pip "$venv" && "$python" -m pip --python "$venv/bin/python" \
            install -qq pip; } >>"$log" 2>&1; then
            cat "$log" >&2
            echo "setup: $python cannot create a virtual environment with pip. On Debian and Ubuntu:" >&2
            echo "       apt-get install python3-venv python3-pip" >&2
            return 1
        fi
    fi
}

show_stages() {
    # Read pip's output; print a line per stage and per 25 packages, so that minutes of installing are not silent.
    found=0 fetched=0
    while IFS= read -r line; do
        echo "$line" >>"$log"
        case "$line" in
            *.whl.metadata*) ;;
            "Collecting "* | "Processing "*)
                found=$((found + 1))
                [ $((found % 25)) -ne 0 ] || echo "setup: $found of $packages packages found" ;;
            *"Downloading "* | *"Using cached "*)
                fetched=$((fetched + 1))
                [ $((fetched % 25)) -ne 0 ] || echo "setup: $fetched of $packages packages downloaded" ;;
            "Installing collected packages"*) echo "setup: unpacking $packages packages into $venv" ;;
        esac
    done
}

install_lock() {
    packages="$(grep -c == requirements.lock)"
    echo "setup: installing $packages packages of requirements.lock (a few minutes the first time)"
    {
        if "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock 2>&1
        then rm -f "$log.failed"; else echo failed >"$log.failed"; fi
    } | show_stages
    if [ -f "$log.failed" ]; then
        cat "$log" >&2
        echo "setup: pip could not install requirements.lock; its output is above." >&2
        return 1
    fi
}

is_installed() { [ "$(cat "$venv/.installed" 2>/dev/null)" = "$state" ]; }

is_registered() {
    activate="${MLFLOW_ENV_ROOT:-$HOME/.mlflow/envs}/$(cat "$venv/.mlflow-environment" 2>/dev/null)/bin/activate"
    [ -f "$activate" ] && grep -qF "$(pwd -P)/$venv/bin" "$activate"
}

if ! is_installed; then
    log="$(mktemp)"
    trap 'rm -f "$log" "$log.failed"' EXIT
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
    install_lock
    echo "setup: installing hire itself"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
    rm -f "$venv/.mlflow-environment"
    echo "$state" >"$venv/.installed"
fi
if ! is_registered; then
    echo "setup: registering $venv with MLflow"
    "$venv/bin/python" scripts/register_mlflow_env.py
fi
