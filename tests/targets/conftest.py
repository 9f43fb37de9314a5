"""What the tests of targets share."""

from collections.abc import Callable

import pytest

from hvfuzz.bugs import Bug


def for_ever(domain: object, port: int) -> object:
    """A walk that never comes to its end."""
    while True:
        port += 1


@pytest.fixture
def hanging() -> Bug:
    """A bug that keeps the host computing for ever when a port is polled."""
    return Bug("hanging", "hvfuzz.hypervisor.hypercalls.sched:polled_port", for_ever)


@pytest.fixture
def text() -> Callable[..., str]:
    """text(line, ...) is a program in world pair."""
    return lambda *lines: "\n".join(("# hvp 1", "world pair", *lines)) + "\n"
