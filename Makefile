# Everything a newcomer needs: `make fuzz` and `make test`. Both make .venv first, from nothing but Python 3.11 or later.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TIME ?= 60
JOBS ?= 2
HARNESS ?= hypercalls

.PHONY: fuzz fuzz-nightly test coverage check lint types doctor clean docs

fuzz: $(STAMP) ## Fuzz the emulated hypervisor for a minute, with a live view, and leave a report in out/.
	$(BIN)/hvfuzz fuzz hypercalls --time $(TIME) --out out

fuzz-nightly: $(STAMP) ## One harness for TIME seconds on all cores, without a view: what the nightly workflow runs.
	$(BIN)/hvfuzz fuzz $(HARNESS) --time $(TIME) --workers $(JOBS) --out out

test: $(STAMP) ## The whole test-suite.
	$(BIN)/python -m pytest -n $(JOBS)

# The report stands in a pipe, which hides its status: the last line is there to fail if the total is too low.
coverage: $(STAMP) ## The test-suite with its coverage of hvfuzz/: lists the files below 90 %, fails if the total is.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS)
	$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report | awk '$$1 == "TOTAL" || $$4 + 0 < 90'
	@$(BIN)/coverage report --format=total

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
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* build dist
