# Stor. `make help` lists what there is; all it needs is Python 3.11 or later, git and make.

# The distribution's Python is built with profile-guided optimisation: it answers in 0.87 of the time that one takes which
# was built without, as by pyenv. It is taken if it is new enough and can make environments.
SYSTEM_PYTHON ?= /usr/bin/python3
PYTHON ?= $(shell $(SYSTEM_PYTHON) -c 'import ensurepip, sys, venv; print(sys.executable * (sys.version_info >= (3, 11)))' \
	2>/dev/null | grep . || command -v python3.11 || command -v python3)
VENV   ?= .venv
ARGS   ?=

# What must be installed before a target runs. Empty means: $(VENV) has everything already.
SERVED ?= $(VENV)/.installed
TESTED ?= $(VENV)/.installed-dev

# Tests of different files run side by side, unless they have to be alone; those of a file share its servers.
BESIDE ?= --numprocesses 4 --dist loadfile --no-loadscope-reorder

# Some machines forbid it: each of a thousand processes that the tests start would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

# Pip takes a space for the end of a path, so this one is relative; the pips that it starts to build something are here, too.
PINNED := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
BIN    := $(VENV)/bin

# What is installed knows where it lies, and which Python it is for: in a clone that was moved or copied, or whose Python
# is another one by now, all of it is made anew. An environment elsewhere may be somebody else's.
STALE  :=
ifneq ($(wildcard $(filter .venv,$(VENV))/.installed),)
ifneq ($(shell $(BIN)/python -I -c 'import pystor; print(*pystor.__path__)' 2>/dev/null),$(CURDIR)/src/pystor)
STALE  := $(BIN)/python
endif
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check format bench bench-quick clean $(STALE)

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

serve: $(SERVED) ## install into .venv and serve ./stor-data on http://127.0.0.1:8080 (ARGS="--port 9000")
	@exec $(BIN)/stor serve $(ARGS)

test: $(TESTED) ## run every test, with branch coverage of all processes
	@tests/install-packages
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -m "not alone and not perf" $(BESIDE) $(ARGS)
	$(BIN)/coverage run -m pytest -m "alone and not perf" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/python -m pytest -m perf

check: $(TESTED) ## format, lint, strict types and import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(TESTED) ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(TESTED) ## compare with nginx, SeaweedFS, caddy and rclone, and write docs/performance.md: an hour
	@tests/install-packages tests/packages.txt bench/packages.txt
	@$(PINNED) $(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m bench $(ARGS)

bench-quick: $(TESTED) ## compare the hot paths with nginx, and count instructions: two minutes
	@tests/install-packages tests/packages.txt bench/packages.txt
	$(BIN)/python -m bench.quick $(ARGS)

clean: ## remove .venv and everything that can be made again (never ./stor-data)
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt $(STALE) | $(BIN)/python
	$(PINNED) $(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt $(STALE) | $(BIN)/python
	$(PINNED) $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(if $(STALE),rm -rf $(VENV))
	$(PYTHON) -m venv $(VENV)
