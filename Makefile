# `make run` needs CPython 3.11 or later with venv, and nothing else. `make help` lists the rest.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= config.toml

# One environment that grows: each stamp says what is in it, and goes stale when the requirements change.
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
BENCH := $(VENV)/.bench
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help run test test-slow prove check format bench bundles clean

help:
	@echo "make run         start the daemon on $(CONFIG)"
	@echo "make test        the tests;  test-slow runs the long forms of some, which take minutes each"
	@echo "make prove       takes away what each test guards, and shows that the test then fails (half an hour)"
	@echo "make check       format, lint and types, as .ci/run wants them;  format mends the first two"
	@echo "make bench       the benchmarks: a table on the terminal, JSON in benchmarks/results"
	@echo "make bundles     train the shipped bundles again"
	@echo "make clean       remove the environment and caches (never var/)"

run: $(RUNTIME)
	@$(BIN)/detectd run --config $(CONFIG)

test: $(DEV)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow

prove: $(DEV)
	$(BIN)/python tests/prove.py

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(BENCH)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

bundles: $(DEV)
	$(BIN)/python -m training.demo bundles

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "make: no python3.11 or later with venv found (Debian: apt install python3-venv); name one with PYTHON=..." >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing the runtime into $(VENV), once" >&2
	@$(PIP_INSTALL) --editable .
	@touch $@

$(DEV): $(RUNTIME)
	@echo "installing training and test tools into $(VENV), once (torch: some minutes)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"  # the first that reads --group
	@$(PIP_INSTALL) --editable ".[train]" --group test --group check
	@touch $@

$(BENCH): $(DEV)
	@$(PIP_INSTALL) --group bench
	@touch $@
