"""Fixtures for the tests of targets."""

from collections.abc import Callable

import pytest

from hvfuzz.bugs import Bug


def for_ever(domain: object, port: int) -> object:
    """An endless loop."""
    while True:
        port += 1


@pytest.fixture
def hanging() -> Bug:
    """A bug that makes the host loop for ever when a port is polled."""
    return Bug("hanging", "hvfuzz.hypervisor.hypercalls.sched:polled_port", for_ever)


@pytest.fixture
def text() -> Callable[..., str]:
    """text(line, ...) returns the text of a program in world pair."""
    return lambda *lines: "\n".join(("# hvp 1", "world pair", *lines)) + "\n"
