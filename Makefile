# `make fuzz` and `make test` are all a newcomer needs; `make help` lists the rest. Each target first creates .venv, which
# needs nothing but Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TIME ?= 60
JOBS ?= 2
HARNESS ?= hypercalls

.DEFAULT_GOAL := fuzz
.PHONY: fuzz fuzz-nightly test coverage check lint types doctor docs clean help anew

# $(call version,PYTHON): "3.12 ok", or "3.10" if it is too old, or nothing if it does not run. Python 2 understands it.
version = $(shell "$(1)" -c 'import sys; v = sys.version_info; print("%d.%d%s" % (v[0], v[1], " ok" * (v >= (3, 11))))' 2>/dev/null)

# The environment stays if it was made here and completely, and its Python still runs and is the one that was named, if
# one was named. Otherwise it is made anew: scripts and paths in it hold the folder and the version that they are for.
ifneq ($(filter-out clean help,$(or $(MAKECMDGOALS),fuzz)),)
  THERE := $(call version,$(BIN)/python)
  NAMED := $(filter command environment,$(origin PYTHON))
  WANTED := $(if $(and $(filter ok,$(THERE)),$(if $(NAMED),,yes)),$(THERE),$(call version,$(PYTHON)))
  ifeq ($(WANTED),)
    $(error hvfuzz needs Python 3.11 or later, and $(PYTHON) does not run; name another: make PYTHON=python3.12)
  endif
  ifeq ($(filter ok,$(WANTED)),)
    $(error hvfuzz needs Python 3.11 or later, and $(PYTHON) is $(WANTED); name another: make PYTHON=python3.12)
  endif
  ifneq ($(shell cat $(STAMP) 2>/dev/null) and $(THERE),$(CURDIR) $(WANTED) and $(WANTED))
    $(STAMP): anew
  endif
endif

fuzz: $(STAMP) ## Fuzz the emulated hypervisor for a minute, with a live view; the report goes to out/.
	$(BIN)/hvfuzz fuzz hypercalls --time $(TIME) --out out

fuzz-nightly: $(STAMP) ## Fuzz HARNESS for TIME seconds with JOBS workers, as the nightly workflow does.
	$(BIN)/hvfuzz fuzz $(HARNESS) --rotate --time $(TIME) --workers $(JOBS) --out out

test: $(STAMP) ## Run the whole test suite with JOBS processes.
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# The pipe hides the exit status of the report, so the last line checks the total again.
coverage: $(STAMP) ## Run the tests with coverage of hvfuzz/; list the files below 90 %, fail if the total is.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS) --dist worksteal
	$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report | awk '$$1 == "TOTAL" || $$4 + 0 < 90'
	@$(BIN)/coverage report --format=total

check: $(STAMP) ## Check format, lint, types and tests, as before a commit.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(STAMP) ## Format all files and fix lint errors.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## Check the types.
	$(BIN)/mypy

doctor: $(STAMP) ## Check that hvfuzz works on this machine.
	$(BIN)/hvfuzz doctor

docs: $(STAMP) ## Regenerate ABI.md from the declarations.
	$(BIN)/python -m hvfuzz.cli abi --write ABI.md

anew:
	@echo "set-up 1 of 3: making $(VENV) with Python $(firstword $(WANTED))"
	@"$(PYTHON)" -m venv --clear $(VENV)

$(STAMP): pyproject.toml
	@echo "set-up 2 of 3: installing hvfuzz and what it needs into $(VENV); the first time takes minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@echo "set-up 3 of 3: checking the installation"
	@$(BIN)/hvfuzz --version
	@echo "$(CURDIR) $(WANTED)" > $@

clean: ## Remove .venv, out/ and all caches.
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* build dist

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
