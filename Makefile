# Every verb sets up what it needs. Needs: Python 3.11 or newer, make, a C compiler, a package registry.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first interpreter that is new enough; override with `make PYTHON=/path/to/python3 ...`.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin
FIRMWARE := build/firmware

# Test processes side by side, and anything else for pytest: make test PYTEST_ARGS="-k journal".
JOBS ?= 2
PYTEST_ARGS ?=

# With OTA_EXPECT_ALL=1 a missing tool is a failure, and the tests that need sockets, processes or tools run too.
ifeq ($(OTA_EXPECT_ALL),1)
MARKERS := not slow
else
MARKERS := not slow and not interop and not system and not netem
endif

.PHONY: help setup demo test nightly check fix bench docs clean

help: ## say what the verbs do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'setup: no Python 3.11 or newer found ("$(PYTHON)"); install one or say make PYTHON=/path/to/python3' >&2; exit 1; }
	@echo "setup: installing into $(VENV) (once)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(RUN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## make the virtual environment .venv
	@echo "setup: ready; try make demo"

demo: $(STAMP) ## update five devices over a link that loses 20 % each way
	@$(RUN)/python -m tools.corpus demo --into $(FIRMWARE)
	@$(RUN)/ota-device demo --firmware $(FIRMWARE)

test: $(STAMP) ## run the tests; OTA_EXPECT_ALL=1 adds interop, system and netem
	$(RUN)/python -m pytest -n $(JOBS) -m "$(MARKERS)" $(PYTEST_ARGS)

nightly: $(STAMP) ## run the slow tests: full fault sets, many seeds, soaks
	@$(RUN)/python -m pytest -n $(JOBS) -m slow --timeout 7200 $(PYTEST_ARGS) || { code=$$?; \
		[ $$code -eq 5 ] && echo 'nightly: no slow tests match' || exit $$code; }

check: $(STAMP) ## format, lint, types and import contracts, changing nothing
	$(RUN)/ruff format --check --quiet .
	$(RUN)/ruff check --quiet .
	$(RUN)/mypy
	$(RUN)/lint-imports

fix: $(STAMP) ## let ruff repair what it can
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

bench: $(STAMP) ## run the benchmarks
	@if [ -f benchmarks/__main__.py ]; then $(RUN)/python -m benchmarks; \
	else echo 'bench: there are no benchmarks yet'; fi

docs: $(STAMP) ## check that every link and file named in the documents exists
	@$(RUN)/python -m tools.doclinks

clean: ## remove everything that make made, .venv too
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
