# `make fuzz` and `make test` are all a newcomer needs; `make help` lists the rest. Each target first creates .venv, which
# needs nothing but Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TIME ?= 60
JOBS ?= 2
HARNESS ?= hypercalls

.PHONY: fuzz fuzz-nightly test coverage check lint types doctor docs clean help

fuzz: $(STAMP) ## Fuzz the emulated hypervisor for a minute, with a live view; the report goes to out/.
	$(BIN)/hvfuzz fuzz hypercalls --time $(TIME) --out out

fuzz-nightly: $(STAMP) ## Fuzz HARNESS for TIME seconds with JOBS workers, as the nightly workflow does.
	$(BIN)/hvfuzz fuzz $(HARNESS) --rotate --time $(TIME) --workers $(JOBS) --out out

test: $(STAMP) ## Run the whole test suite with JOBS processes.
	$(BIN)/python -m pytest -n $(JOBS)

# The pipe hides the exit status of the report, so the last line checks the total again.
coverage: $(STAMP) ## Run the tests with coverage of hvfuzz/; list the files below 90 %, fail if the total is.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS)
	$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report | awk '$$1 == "TOTAL" || $$4 + 0 < 90'
	@$(BIN)/coverage report --format=total

check: $(STAMP) ## Check format, lint, types and tests, as before a commit.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(STAMP) ## Format all files and fix lint errors.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## Check the types.
	$(BIN)/mypy

doctor: $(STAMP) ## Check that hvfuzz works on this machine.
	$(BIN)/hvfuzz doctor

docs: $(STAMP) ## Regenerate ABI.md from the declarations.
	$(BIN)/python -m hvfuzz.cli abi --write ABI.md

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,report]'
	@touch $@

clean: ## Remove .venv, out/ and all caches.
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* build dist

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
