"""What every reference has: a name, the package that it comes with, its quirks, and the comparison that it runs.

A reference is fed the same tables as our model, case by case, and whole outcomes are compared. Where a reference is
known to differ from the manual, a `Quirk` says so, with the manual's statement; such a case is counted, and is
compared in what the quirk does not concern. The model follows the manual, never the quirk.
"""

import importlib
import shutil
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

REFERENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stage1": "hvfuzz.references.stage1",
        "ept": "hvfuzz.references.ept",
        "vtd": "hvfuzz.references.vtd",
    }
)
"""Module of each reference, by its name; it defines REFERENCE."""
MAX_DIFFERENCES: Final = 20
"""A comparison that has found so many stops."""


class ReferenceError(Exception):
    """A reference that cannot run here, in one line that names what is missing."""


class Quirk(NamedTuple):
    """Where a reference is known not to do what the manual says."""

    name: str
    reference: str
    """What the reference does."""
    manual: str
    """What the manual says instead, and where."""


class Difference(NamedTuple):
    """A case in which model and reference do not agree."""

    number: int
    case: str
    model: str
    reference: str


class Report(NamedTuple):
    """How a comparison went."""

    name: str
    version: str
    """Of the reference."""
    seed: int
    cases: int
    seconds: float
    differences: tuple[Difference, ...]
    quirks: Mapping[str, int]
    """How many cases each quirk concerned."""


class Reference(Protocol):
    """One independent implementation of one part of the hardware."""

    @property
    def name(self) -> str: ...

    @property
    def installation(self) -> str:
        """How to install what it needs."""
        ...

    @property
    def quirks(self) -> tuple[Quirk, ...]: ...

    def compare(self, cases: int, seed: int, progress: Callable[[int], None]) -> Report:
        """Compare that many cases; `progress` is told now and then how many are done.

        Raises ReferenceError if the implementation is not installed, or dies.
        """
        ...


def load_reference(name: str) -> Reference:
    """The reference of that name, which must be one of REFERENCES."""
    reference: Reference = importlib.import_module(REFERENCES[name]).REFERENCE
    return reference


def find_program(name: str, package: str) -> str:
    """Path of a program that a reference runs."""
    path = shutil.which(name)
    if path is None:
        raise ReferenceError(f"{name} is not installed: apt-get install {package}")
    return path
