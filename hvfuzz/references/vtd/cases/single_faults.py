"""Every single fault of a walk: each bit of each entry of each walk, each pair of rights, each width and type.

The random cases come on top of these, which leave nothing to chance.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from hvfuzz.machine.vtd.legacy_mode import TT_SHIFT
from hvfuzz.references.vtd.cases.probe import RIGHTS, Probe
from hvfuzz.references.vtd.cases.steps import ROOT


class Where(Enum):
    """The words that a walk reads."""

    ROOT_LOW = "root low"
    ROOT_HIGH = "root high"
    CONTEXT_LOW = "context low"
    CONTEXT_HIGH = "context high"
    ENTRY = "entry"


class Single(NamedTuple):
    """A fault: `clear` and then flip bits of one word."""

    levels: int
    leaf: int
    to_memory: bool | None
    """Whether the device writes; None: either."""
    where: Where
    level: int
    """Of the entry."""
    clear: int
    flip: int

    @property
    def name(self) -> str:
        """What is wrong."""
        level = f" {self.level}" if self.where is Where.ENTRY else ""
        return f"{self.where.value}{level} of {self.levels} levels, leaf {self.leaf}"

    def apply(self, probe: Probe) -> None:
        """Do it to the tables of a probe."""
        hpa = {
            Where.ROOT_LOW: ROOT,
            Where.ROOT_HIGH: ROOT + 8,
            Where.CONTEXT_LOW: probe.context,
            Where.CONTEXT_HIGH: probe.context + 8,
        }.get(self.where)
        if hpa is None:
            hpa = probe.entry(self.level)
        probe.words[hpa] = probe.words.get(hpa, 0) & ~self.clear ^ self.flip


def singles(width: int) -> Iterator[Single]:
    """All of them for an IOMMU of that width: 700 for 39 bits, 1,616 for 48."""
    for levels in range(3, 4 + (width == 48)):
        for where in (Where.ROOT_LOW, Where.ROOT_HIGH, Where.CONTEXT_LOW, Where.CONTEXT_HIGH):
            for bit in range(64):
                yield Single(levels, 1 + bit % 3, None, where, 0, 0, 1 << bit)
        for kind in range(4):
            yield Single(levels, 1, None, Where.CONTEXT_LOW, 0, 3 << TT_SHIFT, kind << TT_SHIFT)
        for code in range(8):
            yield Single(levels, 1, None, Where.CONTEXT_HIGH, 0, 7, code)
        for leaf in (1, 2, 3):
            for level in range(leaf, levels + 1):
                for bit in range(64):
                    yield Single(levels, leaf, None, Where.ENTRY, level, 0, 1 << bit)
                for rights in range(4):
                    for to_memory in (False, True):
                        yield Single(levels, leaf, to_memory, Where.ENTRY, level, RIGHTS, rights)
