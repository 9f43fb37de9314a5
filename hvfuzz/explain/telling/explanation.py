"""The explanation of a run's findings as data: what text, page and JSON show."""

from __future__ import annotations

from typing import NamedTuple


class FoundLine(NamedTuple):
    """A finding, with its severity and the law that was broken."""

    identity: str
    op: int
    severity: str
    message: str
    law: str


class OpLine(NamedTuple):
    """An op that matters: who performs it, its text, what it asks for, how it ended, and the VM exits in it."""

    number: int
    domain: int
    vcpu: int
    name: str
    text: str
    meaning: str
    outcome: str
    exits: tuple[str, ...]


class CheckLine(NamedTuple):
    """A check that the call went through, and the status that it gives if it fails."""

    reason: str
    status: str


class LifeLine(NamedTuple):
    """Something that happened to a frame in op number `op`; -1 is at boot."""

    op: int
    text: str


class FrameStory(NamedTuple):
    """A frame that the finding is about: whose it was when the rule was broken, and its life."""

    hfn: int
    owner: str
    life: tuple[LifeLine, ...]


class EntryLine(NamedTuple):
    """An entry of a table on the way to a page; `says` is what it says in words, `wrong` marks the offending one."""

    level: int
    table: int
    slot: int
    entry: int
    says: str
    wrong: bool


class PathStory(NamedTuple):
    """How an address leads to a frame of the finding: through tables, or by a cache that says otherwise."""

    address: str
    entries: tuple[EntryLine, ...]
    cached: str
    """What a cache says, with the frame and the rights; "" if it says nothing. It is the offending part."""


class OwnerRun(NamedTuple):
    """`frames` frames from `hfn` on with the same owner."""

    hfn: int
    frames: int
    owner: str


class PlaceLine(NamedTuple):
    """A function of the hypervisor to look at: its file, its name, and why."""

    file: str
    function: str
    why: str


class Explanation(NamedTuple):
    """Why the findings of a program are what they are. `severity` is that of the worst finding."""

    severity: str
    title: str
    paragraph: str
    evidence: str
    bug: str
    """What is planted, in words; "" if nothing is."""
    ops: tuple[OpLine, ...]
    left_out: int
    """Number of ops that do not matter for the root: without them it is found as well."""
    forgotten: str
    """What the hypervisor did not do, as a sentence."""
    checked: tuple[CheckLine, ...]
    frames: tuple[FrameStory, ...]
    paths: tuple[PathStory, ...]
    owners_before: tuple[OwnerRun, ...]
    owners_after: tuple[OwnerRun, ...]
    """Who has each frame of the machine: at boot, and when the rule was broken."""
    operands: tuple[str, ...]
    """How what the guest chose led to the address, index or length that broke the rule."""
    places: tuple[PlaceLine, ...]
    root: FoundLine
    follows: tuple[FoundLine, ...]

    def as_document(self) -> dict[str, object]:
        """The same as objects and arrays, for JSON."""
        return {name: _document(value) for name, value in self._asdict().items()}


def _document(value: object) -> object:
    if isinstance(value, tuple):
        if hasattr(value, "_asdict"):
            return {name: _document(each) for name, each in value._asdict().items()}
        return [_document(each) for each in value]
    return value
