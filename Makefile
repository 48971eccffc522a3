# The commands of a working day. `make help` tells what each does.
#
# PYTHON  the Python that makes .venv (3.11 or newer; found by itself)
# JOBS    how many processes run the tests (more than cores: many wait for servers)
# ARGS    more arguments, for example: make test ARGS='tests/admin -k engines'
# TENANTRY_COMPILE=0  leave everything to the interpreter

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
JOBS ?= 4
ARGS ?=
BIN := .venv/bin
NO_LONG_RUNS := not soak and not fuzz
# The shell's PYTHONPATH would hide the installed build.
PYTEST := env -u PYTHONPATH $(BIN)/pytest
INTERPRETED := env PYTHONPATH=. TENANTRY_TEST_VARIANT=interpreted $(BIN)/pytest

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test test-interpreted lint format bench fuzz soak clean need-python

help:
	@echo 'Tenantry: one PostgreSQL endpoint, many tenants.'
	@echo
	@echo '  make demo    set up, start PostgreSQL, NATS and the proxy, show two tenants; Ctrl-C ends it'
	@echo '  make test    set up and run all tests, then the quick ones again without compiled modules'
	@echo '  make setup   only make .venv and install Tenantry into it'
	@echo '  make lint    ruff (rules and format) and mypy (strict)'
	@echo '  make bench   measure against PgBouncer and a direct connection'
	@echo '  make fuzz    fuzz the parsers for a long time'
	@echo '  make soak    run the long tests'
	@echo
	@echo '  make test-interpreted   the whole suite on the sources, nothing compiled'
	@echo '  make format             let ruff put the sources in shape'
	@echo '  make clean              remove .venv and all that was built (not .tenantry, your data)'
	@echo
	@echo 'The first run needs a network; see HACKING.md for more.'

need-python:
	@test -n '$(PYTHON)' || { echo 'tenantry: Python 3.11 or newer was not found: install it, or' \
	  'name it with `make setup PYTHON=/path/to/python3.12`.' >&2; exit 1; }

setup: need-python
	@$(PYTHON) tools/set_up.py

dev: need-python
	@$(PYTHON) tools/set_up.py --dev

demo: setup
	@env -u PYTHONPATH $(BIN)/tenantry demo $(ARGS)

test: dev
	@echo '== the installed build'
	$(PYTEST) -n $(JOBS) $(ARGS)
	@$(PYTHON) tools/is_compiled.py || echo '== nothing is compiled, so the same tests again would tell nothing'
	@! $(PYTHON) tools/is_compiled.py || { echo '== the sources in the interpreter: tests without engines'; \
	  $(INTERPRETED) -n $(JOBS) -m 'not engine and $(NO_LONG_RUNS)' tests/wire tests/actors tests/fuzz; }

test-interpreted: dev
	$(INTERPRETED) -n $(JOBS) $(ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# -P keeps the sources off the path: what is measured is the installed, compiled build.
bench: dev
	@env -u PYTHONPATH $(BIN)/python -P bench/run.py $(ARGS)

fuzz: dev
	$(PYTEST) -m fuzz $(ARGS)

soak: dev
	$(PYTEST) -m soak $(ARGS)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
