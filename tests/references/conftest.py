"""Tests of a reference are skipped if it is not installed; with HVFUZZ_REFERENCES=required they fail instead."""

import os
from collections.abc import Callable

import pytest

from hvfuzz.references.all_references import load_reference
from hvfuzz.references.reference import Reference, ReferenceError, Report

REQUIRED = os.environ.get("HVFUZZ_REFERENCES") == "required"


def silent(_done: int) -> None:
    """Ignore progress."""


@pytest.fixture
def compare() -> Callable[..., Report]:
    """compare(name, cases, seed) returns the report, or skips the test if the reference is not installed."""

    def run(name: str, cases: int, seed: int) -> Report:
        reference: Reference = load_reference(name)
        try:
            return reference.compare(cases, seed, silent)
        except ReferenceError as missing:
            if REQUIRED:
                raise
            pytest.skip(str(missing))

    return run
