"""Fixtures for the tests of campaigns."""

from collections.abc import Callable, Iterator

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget


@pytest.fixture(scope="session")
def target_of() -> Iterator[Callable[[str | None], EmulatedTarget]]:
    """target_of(bug) returns a target with that bug planted (None: the clean one); each is built once."""
    made: dict[str | None, EmulatedTarget] = {}

    def target(bug: str | None = None) -> EmulatedTarget:
        if bug not in made:
            made[bug] = EmulatedTarget(None if bug is None else find_bug(bug))
        return made[bug]

    yield target
    for each in made.values():
        each.close()


@pytest.fixture
def text() -> Callable[..., str]:
    """text(line, ...) returns the text of a program in the world `pair`."""
    return lambda *lines: "\n".join(("# hvp 1", "world pair", *lines)) + "\n"
