# The only commands to know. Each creates the environment it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help book test table lab bench gpu clean

# Threads that wait shall sleep, not spin: where cores are shared, spinning ones made a chapter of
# 12 seconds take minutes.
export OMP_WAIT_POLICY := PASSIVE
# A benchmark is for how torch runs by itself: small operators take ten times as long where threads
# have to be woken.
UNTIED := env -u OMP_WAIT_POLICY

# What the versions of constraints.txt were tried with; PYTHON=... names one, else one is looked for.
TRIED := 3.11 3.12 3.13
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LAB_INSTALLED := $(VENV)/.installed-lab
BENCH_INSTALLED := $(VENV)/.installed-bench
comma := ,

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

book: $(INSTALLED) ## build the book from nothing, warnings are errors: _build/html/index.html
	$(BIN)/python .ci/build_book.py

test: $(INSTALLED) ## run all tests, the book's included
	$(BIN)/python -m pytest -n logical --maxprocesses 8

table: $(INSTALLED) ## print the post's table: post, exact, simulated, verdict
	@$(BIN)/python -m normprop

lab: $(LAB_INSTALLED) ## open the chapters in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=book

bench: $(BENCH_INSTALLED) ## measure speed and memory side by side, for the chapter on speed; BENCH=--quick
	$(UNTIED) $(BIN)/python -m benchmarks --book normprop/companion/results $(BENCH)

gpu: $(BENCH_INSTALLED) ## on a GPU, in 8 minutes: its tests, every layer, a network, benchmarks; GPU=--budget=60
	$(UNTIED) $(BIN)/python -m benchmarks.gpu $(GPU)

clean: ## remove the built book and the environment
	rm -rf _build $(VENV) normprop.egg-info .pytest_cache .ruff_cache

# pip is loud, and heard only where it fails: its reason is at the end of what it says.
define install
@echo "installing [$(1)]"
@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	-c constraints.txt -e '.[$(1)]' >$(VENV)/pip.log 2>&1 \
	|| { tail -n 40 $(VENV)/pip.log; echo "pip failed, all it said is in $(VENV)/pip.log"; exit 1; } >&2
@touch $@
endef

# The environment is made anew: an old one would keep its Python, and what is no longer asked for.
$(INSTALLED): constraints.txt pyproject.toml
	python=$$(PYTHON='$(PYTHON)' .ci/find_python $(TRIED)) && "$$python" -m venv --clear $(VENV)
	$(call install,book$(comma)test)

$(LAB_INSTALLED): $(INSTALLED)
	$(call install,lab)

$(BENCH_INSTALLED): $(INSTALLED)
	$(call install,bench)
