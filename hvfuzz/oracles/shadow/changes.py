"""What the shadow is made of, and what changed in it between two looks: tables, leaves, frame words, grants.

A "space" is what a tree of tables translates for: the domain's number for its EPT, that plus DMA for its devices.
"""

from __future__ import annotations

from operator import is_not
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from hvfuzz.machine.addresses import PAGE_SHIFT, PHYSICAL_RESERVED, READ, WRITE
from hvfuzz.machine.mmu import ept
from hvfuzz.machine.vtd import legacy_mode

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Grant, Mapping

T = TypeVar("T")

DMA: Final = 0x100
"""Added to a domain's number: the space of its devices."""
EPT_LEVELS: Final = 4
DMA_LEVELS: Final = 3
LARGE_LEVEL: Final = 2
LARGE: Final = ept.LARGE
ADDRESS: Final = ept.ADDRESS | PHYSICAL_RESERVED
"""All address bits, those beyond MAXPHYADDR too: a table that names such an address is wrong, not absent."""
OWNER_AND_STATE: Final = 0xFFFF
"""The part of a frame word that says whose the frame is, and what for."""
EPT_RIGHTS: Final = 7
DMA_RIGHTS: Final = 3
DMA_RESERVED: Final = legacy_mode.SL_SNOOP | legacy_mode.SL_TRANSIENT
"""Bits that no second-level entry of the IOMMU may have."""
EPT_TABLE: Final = EPT_RIGHTS | ept.RESERVED_PML4E & ~PHYSICAL_RESERVED
"""Of an EPT entry that names a table: rights, and bits that must be clear."""
DMA_TABLE: Final = DMA_RIGHTS | DMA_RESERVED
"""The same for one of the IOMMU."""
LEAF_BITS: Final = ept.MEMORY_TYPE | EPT_RIGHTS | DMA_RESERVED
"""The bits that decide whether a 4 KiB leaf is well-formed."""
WRITE_BACK: Final = ept.MemoryType.WB << ept.MEMORY_TYPE_SHIFT


class Table(NamedTuple):
    """A table page: the space it translates for, its level, and the first page number that it covers."""

    space: int
    level: int
    page: int


class Leaf(NamedTuple):
    """A leaf entry: where the word is, and what it says."""

    word: int
    space: int
    level: int
    page: int
    frame: int
    rights: int
    foreign: bool

    @property
    def frames(self) -> int:
        """4 KiB frames that it maps."""
        return 1 << 9 * (self.level - 1)


class Removed(NamedTuple):
    """A leaf that is gone, or names another frame now, or has less rights than it had."""

    space: int
    level: int
    page: int
    entry: int


class Context(NamedTuple):
    """A present context entry, whole: the root of the table that it names, its domain id, and all its other bits."""

    root: int
    did: int
    low: int
    high: int


class Change:
    """What changed between two updates; the oracles look at this, and no further."""

    __slots__ = (
        "added",
        "blocks",
        "contexts",
        "emptied",
        "entries",
        "frames",
        "handles",
        "linked",
        "malformed",
        "misplaced",
        "removed",
        "scattered",
        "tables",
        "unlinked",
    )

    def __init__(self) -> None:
        self.frames: dict[int, int] = {}
        """Hfn -> its frame word before, where that changed."""
        self.blocks: dict[int, tuple[int, int]] = {}
        """Hfn >> 9 -> (old, new) where 512 frames had one and the same word, and have another one now, all of them."""
        self.scattered: dict[int, int] = self.frames
        """`frames` without those of `blocks`."""
        self.added: list[Leaf] = []
        """Leaves that are there now, and were not, or were other ones."""
        self.removed: list[Removed] = []
        self.linked: list[int] = []
        """Hfns of tables that are reachable now, and were not."""
        self.emptied: list[int] = []
        """Hfns of tables that lost their last entry, or never had one."""
        self.malformed: list[int] = []
        """Words of entries that are there now, with bits that no entry in that place should have."""
        self.misplaced: list[tuple[Table, int, str]] = []
        """(table, hfn that an entry of it names as a table, what is wrong with that)"""
        self.contexts: list[int] = []
        """Devices (by bdf) with another context entry than before; see `Context`."""
        self.entries: list[tuple[int, int, Grant | None, Grant | None]] = []
        """(domain, ref, old, new) of changed grant entries."""
        self.handles: list[tuple[int, int, Mapping | None, Mapping | None]] = []
        """(domain, handle, old, new) of changed grant mappings."""
        self.tables = False
        """Some table became reachable, or unreachable."""
        self.unlinked = False
        """Some table became unreachable."""


def is_link(entry: int, level: int) -> bool:
    """Whether a present entry of a table of this level names a further table."""
    return level > 1 and (not entry & LARGE or level == EPT_LEVELS)


def context_of(low: int, high: int) -> Context:
    """A present context entry, from its two words."""
    did = high >> legacy_mode.DID_SHIFT & legacy_mode.DID_MASK
    return Context(low & ADDRESS, did, low & ~ADDRESS, high & ~(legacy_mode.DID_MASK << legacy_mode.DID_SHIFT))


def malformation(space: int, level: int, entry: int) -> str:
    """What is wrong with the bits of a present entry, whatever it names; "" if nothing is.

    Rights are narrowed in leaves only: an entry that names a table gives all that there are, or it would take them
    from every page below it.
    """
    dma = space & DMA
    if is_link(entry, level):
        if entry & (DMA_TABLE if dma else EPT_TABLE) == (DMA_RIGHTS if dma else EPT_RIGHTS):
            return ""
        return "an entry that names a table lacks rights, or has bits that are reserved"
    if level > 1 and entry >> PAGE_SHIFT & (1 << 9 * (level - 1)) - 1:
        return "a large leaf names a frame that is not aligned"
    if dma:
        return "a leaf has bits that are reserved" if entry & DMA_RESERVED else ""
    if entry & ept.MEMORY_TYPE != WRITE_BACK:
        return "memory is mapped, and not as write-back"
    return "a leaf allows writes and no reads" if entry & (READ | WRITE) == WRITE else ""


def differences(old: list[T], new: list[T]) -> list[tuple[int, T, T]]:
    """(index, old, new) of the elements that differ, of two lists of one length."""
    found = []
    # Unequal elements are different objects: that is found in C.
    different = bytes(map(is_not, old, new))
    index = different.find(1)
    while index >= 0:
        if old[index] != new[index]:
            found.append((index, old[index], new[index]))
        index = different.find(1, index + 1)
    return found


def sides_of(domain: int, mapping: Mapping) -> list[tuple[int, int]]:
    """(space, page) of each side of a domain's grant mapping."""
    sides = []
    if mapping.host:
        sides.append((domain, mapping.gfn))
    if mapping.device:
        sides.append((domain | DMA, mapping.iova >> PAGE_SHIFT))
    return sides


def name_of(space: int) -> str:
    """A space in words, for messages."""
    return f"the devices of dom{space & ~DMA}" if space & DMA else f"dom{space}"
