# Everything a newcomer needs: `make fuzz` and `make test`. Both make .venv first, from nothing but Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TIME ?= 60
JOBS ?= 2
HARNESS ?= hypercalls

.PHONY: fuzz fuzz-nightly test check lint types doctor clean docs

fuzz: $(STAMP) ## Fuzz the emulated hypervisor for a minute, with a live view, and leave a report in out/.
	$(BIN)/hvfuzz fuzz hypercalls --time $(TIME) --out out

fuzz-nightly: $(STAMP) ## One harness for TIME seconds on all cores, without a view: what the nightly workflow runs.
	$(BIN)/hvfuzz fuzz $(HARNESS) --time $(TIME) --workers $(JOBS) --out out

test: $(STAMP) ## The whole test-suite.
	$(BIN)/python -m pytest -n $(JOBS)

check: $(STAMP) ## The one gate before a commit: format, lint, types, tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP)
	$(BIN)/mypy

doctor: $(STAMP)
	$(BIN)/hvfuzz doctor

docs: $(STAMP) ## Write ABI.md anew from the declarations.
	$(BIN)/python -m hvfuzz.cli abi --write ABI.md

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,report]'
	@touch $@

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
