"""References run where they are installed; where HVFUZZ_REFERENCES=required, one that is missing is a failure."""

import os
from collections.abc import Callable

import pytest

from hvfuzz.references.reference import Reference, ReferenceError, Report, load_reference

REQUIRED = os.environ.get("HVFUZZ_REFERENCES") == "required"


def silent(_done: int) -> None:
    """Nobody watches."""


@pytest.fixture
def compare() -> Callable[..., Report]:
    """compare(name, cases, seed): the report, or a skip where the reference is not installed."""

    def run(name: str, cases: int, seed: int) -> Report:
        reference: Reference = load_reference(name)
        try:
            return reference.compare(cases, seed, silent)
        except ReferenceError as missing:
            if REQUIRED:
                raise
            pytest.skip(str(missing))

    return run
