# One meaning per target; continuous integration calls the same names.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NEO4J_JARS := .cache/neo4j/lib
PYTEST_ARGS ?=
# test processes, a file at a time, each with servers of its own; 0: this one
WORKERS ?= 0

.PHONY: help install install-dev demo test test-fast test-servers lint format bench docs clean
help:                ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 14)))' \
	  || { echo "Circuit Atlas needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing Circuit Atlas with everything it needs (several GB, mostly torch) ..."
	$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed                ## virtual environment with the package and all extras
install-dev: $(VENV)/.installed-dev        ## the same and what tests and checks need

demo: install                              ## trace the sample prompts and open the pages on localhost
	$(BIN)/atlas demo $(DEMO_ARGS)

test-servers:                              ## Java, Maven, Neo4j, Chromium and Node, as far as this machine allows
	@NEO4J_JARS=$(NEO4J_JARS) scripts/test-servers.sh

lint: install-dev                          ## style, types, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev                        ## rewrite the sources in the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-fast: install-dev                     ## tests without servers, browser or long work
	$(BIN)/python -m pytest -q -m 'not slow and not embedded and not neo4j and not postgres and not browser' $(PYTEST_ARGS)

test: install-dev test-servers lint        ## everything: both graph servers, the browser, the real graphs
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

bench: install-dev test-servers            ## print the benchmark tables, store JSON under benchmarks/results
	$(BIN)/python -m benchmarks.run

clean:                                     ## remove what the other targets made
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
