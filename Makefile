# On a fresh machine with Python 3.11 or newer and pip, run `make train` or `make test`. Each installs what is missing.
.DEFAULT_GOAL := help
.PHONY: help setup train pipeline stop test test-fast coverage lint docs clean
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PYTHON

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## Install .venv from requirements.lock and register it with MLflow, if needed
	@scripts/setup.sh

train: setup ## Train, evaluate and register the default model: `mlflow run . -e train`
	PATH="$(CURDIR)/.venv/bin:$$PATH" mlflow run . -e train
	@command -v hire >/dev/null || echo "(hire and mlflow are in .venv/bin; run  . .venv/bin/activate  first)"

pipeline: setup ## Prefect: start server and worker in the background, deploy the flows
	@scripts/pipeline.sh

stop: ## Prefect: stop server and worker
	@scripts/pipeline.sh stop

test: setup ## Run all tests in two processes; ARGS="-k name" is passed to pytest
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

docs: setup ## Build the documentation site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

conda.yaml: requirements.lock ## Write the pins for conda
	.venv/bin/python scripts/write_conda_env.py

clean: ## Remove caches; keep .venv, runs, data sets and MLflow's store
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build ./*.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
