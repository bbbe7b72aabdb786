# Two commands on a fresh machine with Python 3.11 and pip: `make train` and `make test`. Each sets up what is missing.
.DEFAULT_GOAL := help
.PHONY: help setup train pipeline stop test test-fast coverage lint clean
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PYTHON

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: ## Make .venv from requirements.lock and register it with MLflow; does nothing when that is done
	@scripts/setup.sh

train: setup ## Train, evaluate and register the default model: `mlflow run . -e train`
	PATH="$(CURDIR)/.venv/bin:$$PATH" mlflow run . -e train
	@command -v hire >/dev/null || echo "(hire and mlflow are in .venv/bin: first type  . .venv/bin/activate)"

pipeline: setup ## Prefect: start server and worker in the background, and deploy hire/retrain
	@scripts/pipeline.sh

stop: ## Prefect: stop what 'make pipeline' has started
	@scripts/pipeline.sh stop

test: setup ## Run all tests in two processes; ARGS="-k name" goes to pytest
	.venv/bin/python -m pytest -n 2 --dist loadgroup $(ARGS)

test-fast: setup ## Run the tests that start no server and train no model
	.venv/bin/python -m pytest -n 2 --dist loadgroup -m "not live and not slow" $(ARGS)

coverage: setup ## Run all tests and report the coverage of each file
	.venv/bin/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered $(ARGS)

lint: setup ## Check style, types, the direction of imports, and dead code
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/vulture

conda.yaml: requirements.lock ## The same pins for conda
	.venv/bin/python scripts/write_conda_env.py

clean: ## Remove caches (not .venv, runs, data sets or MLflow's store)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build ./*.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
