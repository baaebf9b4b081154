# The commands of this repository. `make demo` shows it working, `make test` proves it; both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HUB_VERSION := 0.30.7
CODEX_ACP_VERSION := 0.16.0
HUB := .cache/hub/.installed-$(HUB_VERSION)
CODEX := .cache/codex/.installed-$(CODEX_ACP_VERSION)

.PHONY: help setup demo test unit bench load chaos lint format clean
.DEFAULT_GOAL := help

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/.installed ## Virtual environment in .venv, and the official hub (if npm is there)
	@if command -v npm >/dev/null 2>&1; then $(MAKE) --no-print-directory $(HUB); \
	else echo "npm is not installed: all works but what needs the hub. Install Node.js 20 or newer (https://nodejs.org)."; fi

demo: $(BIN)/.installed ## Hub, runner, a session, a conversation; until Ctrl-C (ONCE=1: then stop)
	@$(MAKE) --no-print-directory $(HUB)
	@PYTHONPATH=. $(BIN)/python scripts/demo.py $(if $(ONCE),--once)

test: $(BIN)/.installed ## Set up and run the whole suite
	@if command -v npm >/dev/null 2>&1; then $(MAKE) --no-print-directory $(HUB) $(CODEX); \
	else echo "npm is not installed: tests that need the hub or codex are skipped. Install Node.js 20 or newer." >&2; fi
	$(BIN)/pytest -n 3 --dist worksteal $(ARGS)

unit: $(BIN)/.installed ## The fast tests only
	$(BIN)/pytest tests/unit $(ARGS)

bench: $(BIN)/.installed ## The benchmarks, beside peer and floor (ONLY="spawn stop", QUICK=1, RECORD=1: into benchmarks/RESULTS.md)
	@$(MAKE) --no-print-directory $(HUB)
	@$(BIN)/python -m benchmarks $(ONLY) $(if $(QUICK),--quick) $(if $(RECORD),--record)

load: $(BIN)/.installed ## Load test with SESSIONS (1000) through the official hub (ARGS: more of `hapi loadtest --help`)
	@$(MAKE) --no-print-directory $(HUB)
	@PYTHONPATH=. $(BIN)/python scripts/load.py --sessions $(or $(SESSIONS),1000) $(ARGS)

chaos: $(BIN)/.installed ## Break things for MINUTES (3) by SEED (made up), then prove that nothing was lost
	@$(MAKE) --no-print-directory $(HUB)
	@PYTHONPATH=. $(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),3) $(if $(SEED),--seed $(SEED))

lint: $(BIN)/.installed ## Format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(BIN)/.installed ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove all that these commands made
	rm -rf $(VENV) .cache artifacts .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/.installed: pyproject.toml constraints.txt
	@echo "==> Python environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

$(HUB):
	@command -v npm >/dev/null 2>&1 || { echo "The official hub needs npm: install Node.js 20 or newer (https://nodejs.org)." >&2; exit 1; }
	@echo "==> The official hub, @twsxtd/hapi@$(HUB_VERSION), into .cache/hub (about 140 MB)"
	@mkdir -p .cache/hub
	@npm install --prefix .cache/hub --no-audit --no-fund @twsxtd/hapi@$(HUB_VERSION)
	@touch $@

$(CODEX):
	@echo "==> A real agent for the tests, codex-acp $(CODEX_ACP_VERSION), into .cache/codex"
	@mkdir -p .cache/codex
	@npm install --prefix .cache/codex --no-audit --no-fund @zed-industries/codex-acp@$(CODEX_ACP_VERSION)
	@touch $@
