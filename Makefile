# The only commands to know. Each creates the environment it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help book test table lab bench clean

# Threads that wait shall sleep, not spin: where cores are shared, spinning ones made a chapter of
# 12 seconds take minutes.
export OMP_WAIT_POLICY := PASSIVE

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LAB_INSTALLED := $(VENV)/.installed-lab
BENCH_INSTALLED := $(VENV)/.installed-bench

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

book: $(INSTALLED) ## build the book from nothing, warnings are errors: _build/html/index.html
# From nothing, because a second build of a broken book is silent about pages it does not revisit.
	rm -rf _build
	$(BIN)/jupyter-book build -W -n --keep-going .

test: $(INSTALLED) ## run all tests, the book's included
	$(BIN)/python -m pytest

table: $(INSTALLED) ## print the post's table: post, exact, simulated, verdict
	@$(BIN)/python -m normprop

lab: $(LAB_INSTALLED) ## open the chapters in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=book

bench: $(BENCH_INSTALLED) ## measure speed and memory side by side, for the chapter on speed; BENCH=--quick
	$(BIN)/python -m benchmarks --book book/results $(BENCH)

clean: ## remove the built book and the environment
	rm -rf _build $(VENV) normprop.egg-info .pytest_cache .ruff_cache

$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and f"Python 3.11 is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'
	@touch $@

$(LAB_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab]'
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@
