# `make demo` and `make test` are a developer's whole set-up: Python 3.11 or newer with venv, and make.
# Everything else is installed into .venv, from the lock files and their hashes.

PYTHON ?= python3
ARGS ?=
# Tests at a time; each worker starts services of its own. 0: in this process. Most tests wait for a
# process or a service, so that three of them keep two cores busy.
WORKERS ?= 3
# Module by module, in the order of the folders: what takes longest is in the first of them.
SPREAD := --dist loadscope --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
SOURCES := k2i_tasks flows tests benchmarks
# The lock files are complete, so nothing is left to resolve.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps
COMPILE := $(BIN)/python -m compileall -q k2i_tasks flows
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-header pyproject.toml --group build

.DEFAULT_GOAL := help
.PHONY: help demo test torture lint format types docs lock clean

help:
	@echo 'make demo    events from an embedded broker into a local table; ARGS="--duration 30"'
	@echo 'make test    all tests; ARGS="tests/unit -k name" WORKERS=0 for some'
	@echo 'make torture thousands of crashes and faults, table and topic compared after each; SCALE, MINUTES, SEED'
	@echo 'make lint    what CI checks before the tests: ruff and mypy'
	@echo 'make format  rewrite the code in the house style'
	@echo 'make docs    write the configuration reference from the model'
	@echo 'make lock    write the lock files anew; then read the change'
	@echo 'make clean   remove .venv and what tools leave behind'

# On a terminal the program gets a process group of its own (set -m), so that Ctrl-C reaches it
# alone, and once: it drains, and its exit code is the recipe's. A make that saw the SIGINT itself
# would end as killed by it whatever the program returns.
demo: $(VENV)/run.stamp
	@if [ -t 0 ]; then set -m; $(BIN)/python flows/ingest.py $(ARGS); \
	else exec $(BIN)/python flows/ingest.py $(ARGS); fi

test: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest -n $(WORKERS) $(SPREAD) $(ARGS)

# A night: thousands of crashes, schedules, flipped bits and lost answers. SCALE=0.1 is a tenth of
# it, SEED=... repeats the crashes, and after MINUTES it ends.
SCALE ?= 1
MINUTES ?= 720
torture: $(VENV)/dev.stamp
	@$(BIN)/python -m tests.torture.night --scale $(SCALE) --minutes $(MINUTES) \
		$(if $(SEED),--seed $(SEED))

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

format: $(VENV)/dev.stamp
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/dev.stamp
	@$(BIN)/python -m k2i_tasks.config.reference > docs/configuration.md

# The run lock is the part of the dev lock that running needs: the same versions.
lock: $(VENV)/dev.stamp
	@$(LOCK) --group dev --output-file requirements-dev.txt
	@$(LOCK) --constraint requirements-dev.txt --output-file requirements.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"K2I needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV) (once)'
	@$(INSTALL) --require-hashes -r requirements.txt
	@$(INSTALL) --no-build-isolation --editable .
	@$(COMPILE)
	@touch $@

# Holds all of the run lock too.
$(VENV)/dev.stamp: requirements-dev.txt requirements.txt pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV) with the development tools (once)'
	@$(INSTALL) --require-hashes -r requirements-dev.txt
	@$(INSTALL) --no-build-isolation --editable .
	@$(COMPILE)
	@touch $(VENV)/run.stamp $@
