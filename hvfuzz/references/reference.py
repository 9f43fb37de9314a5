"""The interface of a reference: an independent implementation that a hardware model of ours is compared with.

Model and reference get the same tables, case by case, and whole outcomes are compared. Where a reference is known to
differ from the manual, a `Quirk` describes it and quotes the manual. Whether a quirk applies follows from the case and
the manual alone, never from the model's answer: there the model must show the manual's outcome, and the reference that
of the quirk. The report counts the cases whose verdict a quirk changed: those that would be differences without it.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

MAX_DIFFERENCES: Final = 20
"""A comparison stops after this many differences."""


class ReferenceError(Exception):
    """A reference is not installed, or it failed; the message is one line."""


class Quirk(NamedTuple):
    """A known deviation of a reference from the manual."""

    name: str
    reference: str
    """What the reference does."""
    manual: str
    """What the manual says, with the section."""


class Difference(NamedTuple):
    """A case in which model and reference disagree, with the outcome of each."""

    number: int
    """Of the case, counted from the start of the comparison."""
    case: str
    model: str
    reference: str


class Report(NamedTuple):
    """The result of a comparison."""

    name: str
    version: str
    """Name and version of the implementation."""
    seed: int
    cases: int
    seconds: float
    differences: tuple[Difference, ...]
    quirks: Mapping[str, int]
    """{name of each quirk: number of cases whose verdict it changed}; see `verdict_counts`."""


class Reference(Protocol):
    """An independent implementation of one part of the hardware."""

    @property
    def name(self) -> str: ...

    @property
    def installation(self) -> str:
        """The command that installs the implementation."""
        ...

    @property
    def quirks(self) -> tuple[Quirk, ...]: ...

    def compare(self, cases: int, seed: int, progress: Callable[[int], None]) -> Report:
        """Compare the first `cases` cases of `seed`; `progress` is called from time to time with the number done.

        Raises ReferenceError if the implementation is not installed, or fails.
        """
        ...


def changed_verdict(
    quirks: Collection[Quirk], outcome: Callable[[frozenset[Quirk]], object], reference: object
) -> list[Quirk]:
    """The quirks without which a case would be a difference.

    `outcome(some)` is the outcome that the manual with only the quirks `some` predicts for the case; `reference` is
    that of the reference.
    """
    every = frozenset(quirks)
    return [quirk for quirk in quirks if outcome(every - {quirk}) != reference]


def verdict_counts(quirks: Iterable[Quirk], changed: Mapping[str, int]) -> dict[str, int]:
    """`Report.quirks` of a reference: `changed` by name, and 0 for each quirk that changed no verdict."""
    return {quirk.name: changed.get(quirk.name, 0) for quirk in quirks}


def find_program(name: str, package: str) -> str:
    """Path of the program `name`; raises ReferenceError, naming the Debian package, if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise ReferenceError(f"{name} is not installed: apt-get install {package}")
    return path
