# Everything one does with a checkout. Each target first makes what it needs (.venv, the
# embedded server) and says so; a second run only does what has changed.
#
#   PYTHON=python3.12 make …    use this Python (3.11 or newer) for .venv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

VENV   := .venv
BIN    := $(VENV)/bin
SERVER := $(VENV)/libexec/stream-daemon/valkey-server
TREE   := .build/tree
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq

# A Python that was upgraded away leaves a dead .venv behind: make it anew.
ifeq ($(shell $(BIN)/python -V 2>/dev/null),)
  $(shell rm -f $(VENV)/.made $(VENV)/.runtime $(VENV)/.dev $(VENV)/.bench $(VENV)/.profile)
endif

define install
	@echo "→ installing stream-daemon$(1) into $(VENV)"
	@$(PIP) install -e '.$(1)' || { echo "pip could not install it; to see more: $(subst -qq,-v,$(PIP)) install -e '.$(1)'" >&2; exit 1; }
	@touch $@
endef

.PHONY: help demo check sabotage bench profile torture tree binary check-system deb clean

help: ## list the targets
	@echo "make TARGET, with TARGET one of:"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.runtime $(SERVER) ## see the whole system run on a made-up stream, about 20 seconds
	@$(BIN)/stream-daemon demo

check: $(VENV)/.dev $(SERVER) ## format, lint, types, layers and tests, all that must pass
	@build/machine.sh services
	@build/machine.sh mysql .build/mysql
	@build/machine.sh bench .build/rsyslog-mysql
	@echo "→ format" && $(BIN)/ruff format --check .
	@echo "→ lint"   && $(BIN)/ruff check .
	@echo "→ types"  && $(BIN)/mypy
	@echo "→ layers" && $(BIN)/pytest -q --no-header tests/test_layers.py
	@build/tests.sh $(BIN)/pytest

bench: $(VENV)/.bench $(SERVER) ## how fast it is against other ways (BENCH=B5 for one figure, JSON=FILE and PICTURES=DIR to keep it)
	@build/machine.sh services
	@build/machine.sh bench .build/rsyslog-mysql
	@$(BIN)/python -m tests.bench $(BENCH) $(if $(JSON),--json $(JSON)) $(if $(PICTURES),--pictures $(PICTURES))

profile: $(VENV)/.profile $(SERVER) ## where the time goes, by process and by whose code, as root (BENCH=B5 for one figure)
	@build/machine.sh services
	@$(BIN)/python -m tests.bench.profile $(BENCH)

torture: $(VENV)/.dev $(SERVER) ## strike a whole instance at random and count each record (TIME=10m SEED=N MORE="--only kills")
	@build/machine.sh services
	@$(BIN)/python -m tests.torture --time $(or $(TIME),1m) $(if $(SEED),--seed $(SEED)) $(MORE)

sabotage: $(VENV)/.dev $(SERVER) ## switch off in turn what keeps a promise, and see that its test fails
	@build/machine.sh services
	@$(BIN)/python -m tests.sabotage

tree: $(VENV)/.made ## the Python that goes into the frozen file, built for glibc 2.28 (once, some minutes)
	@build/tree.sh $(TREE)

# Without that Python the local one is frozen, which needs a newer C library: freeze.py says which.
binary: $(VENV)/.dev $(SERVER) ## freeze dist/stream-daemon, one file with all in it, and try it (OLD=no: for this machine's glibc)
	@[ "$(OLD)" = no ] || build/tree.sh $(TREE) || \
		echo "→ so it is frozen with the local Python (docs/building.md)"
	@python=$(TREE)/python; [ -x $$python ] && [ "$(OLD)" != no ] || python=$(BIN)/python; \
		build/machine.sh freezer $$python && $$python build/freeze.py
	@$(BIN)/python build/smoke dist/stream-daemon

check-system: $(VENV)/.dev ## try dist/stream-daemon on booted Debians, as root (FULL=1 for all, SEED=N)
	@[ -x dist/stream-daemon ] || $(MAKE) binary
	@FULL=$(FULL) build/booted.sh $(BIN)/python

deb: ## make a Debian package out of dist/stream-daemon (make binary first; LINTIAN=no leaves lintian out)
	@[ -x dist/stream-daemon ] || $(MAKE) binary
	@[ "$(LINTIAN)" = no ] || build/machine.sh packager
	@LINTIAN=$(or $(LINTIAN),yes) build/deb.sh $(BIN)/python

clean: ## remove what the other targets made
	rm -rf $(VENV) .build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find appliance tests build -name __pycache__ -prune -exec rm -rf {} +

# ── what the targets need ───────────────────────────────────────────────────────────────

$(VENV)/.made:
	@build/machine.sh venv $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml | $(VENV)/.made
	$(call install)

$(VENV)/.dev: pyproject.toml $(VENV)/.runtime
	$(call install,[dev])

$(VENV)/.bench: $(VENV)/.dev
	$(call install,[bench])

$(VENV)/.profile: $(VENV)/.dev
	$(call install,[profile])

# No server is no reason to stop: the script says what is missing without it.
$(SERVER): build/server.txt build/fetch_server.py | $(VENV)/.made
	@$(BIN)/python build/fetch_server.py $@ || true
