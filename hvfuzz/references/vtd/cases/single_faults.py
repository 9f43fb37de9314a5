"""All single faults of a walk: each bit of each entry, each value of R and W, each address width and type.

They cover single faults exhaustively; random faults come in addition.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from hvfuzz.machine.vtd.legacy_mode import TT_SHIFT
from hvfuzz.references.vtd.cases.request_builder import RIGHTS, RequestBuilder
from hvfuzz.references.vtd.memory_map import ROOT


class TableWord(Enum):
    """The kinds of words that a walk reads."""

    ROOT_LOW = "root low"
    ROOT_HIGH = "root high"
    CONTEXT_LOW = "context low"
    CONTEXT_HIGH = "context high"
    ENTRY = "entry"


class SingleFault(NamedTuple):
    """A fault in one word: the bits of `clear` are cleared, then those of `flip` are inverted."""

    levels: int
    leaf: int
    to_memory: bool | None
    """Whether the device writes; None: at random."""
    where: TableWord
    level: int
    """Of the entry, if `where` is ENTRY."""
    clear: int
    flip: int

    @property
    def name(self) -> str:
        """The word with the fault, as text."""
        level = f" {self.level}" if self.where is TableWord.ENTRY else ""
        return f"{self.where.value}{level} of {self.levels} levels, leaf {self.leaf}"

    def apply(self, builder: RequestBuilder) -> None:
        """Add the fault to the tables of a request."""
        hpa = {
            TableWord.ROOT_LOW: ROOT,
            TableWord.ROOT_HIGH: ROOT + 8,
            TableWord.CONTEXT_LOW: builder.context,
            TableWord.CONTEXT_HIGH: builder.context + 8,
        }.get(self.where)
        if hpa is None:
            hpa = builder.entry(self.level)
        builder.words[hpa] = builder.words.get(hpa, 0) & ~self.clear ^ self.flip


def single_faults(width: int) -> Iterator[SingleFault]:
    """All single faults for an IOMMU of `width` bits: 700 for 39 bits, 1,616 for 48."""
    for levels in range(3, 4 + (width == 48)):
        for where in (TableWord.ROOT_LOW, TableWord.ROOT_HIGH, TableWord.CONTEXT_LOW, TableWord.CONTEXT_HIGH):
            for bit in range(64):
                yield SingleFault(levels, 1 + bit % 3, None, where, 0, 0, 1 << bit)
        for kind in range(4):
            yield SingleFault(levels, 1, None, TableWord.CONTEXT_LOW, 0, 3 << TT_SHIFT, kind << TT_SHIFT)
        for code in range(8):
            yield SingleFault(levels, 1, None, TableWord.CONTEXT_HIGH, 0, 7, code)
        for leaf in (1, 2, 3):
            for level in range(leaf, levels + 1):
                for bit in range(64):
                    yield SingleFault(levels, leaf, None, TableWord.ENTRY, level, 0, 1 << bit)
                for rights in range(4):
                    for to_memory in (False, True):
                        yield SingleFault(levels, leaf, to_memory, TableWord.ENTRY, level, RIGHTS, rights)
