"""A mutant: one small edit of the source of one function, with an identity that edits elsewhere do not change."""

import difflib
from typing import NamedTuple

CONTEXT = 2
"""Unchanged lines around the edit that a diff shows."""


class Mutant(NamedTuple):
    """One edit of a file below the package hvfuzz."""

    path: str
    """The file, relative to the package: ``hypervisor/memory/frames.py``."""
    function: str
    """The qualified name of the function, without ``<locals>``: ``FrameTable.put``."""
    kind: str
    ordinal: int
    """Number of this edit among those of its kind in the function, in the order of the source, from 1 on."""
    lines: tuple[int, int]
    """First and last line of what has to be executed for the edit to matter: a statement, or the head of a block."""
    start: int
    end: int
    """The bytes of the file that the edit replaces."""
    before: str
    after: str

    @property
    def id(self) -> str:
        """``FILE:FUNCTION:KIND:ORDINAL``."""
        return f"{self.path}:{self.function}:{self.kind}:{self.ordinal}"

    def apply(self, source: bytes) -> bytes:
        """The source of the file, with the edit. Raises ValueError if it does not have what the edit replaces."""
        if source[self.start : self.end] != self.before.encode():
            raise ValueError(f"{self.path} is not the file that {self.id} was made from")
        return source[: self.start] + self.after.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """The edit as a unified diff of a few lines, without line numbers, which edits elsewhere would change."""
        lines = difflib.unified_diff(
            source.decode().splitlines(), self.apply(source).decode().splitlines(), lineterm="", n=CONTEXT
        )
        return "\n".join(line.rstrip() for line in list(lines)[2:] if not line.startswith("@@")).strip("\n")
