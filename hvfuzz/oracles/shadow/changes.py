"""The elements of the shadow (tables, leaves, context entries), and the record of what changed between two updates.

A "space" names what a tree of tables translates for: the number of a domain for its EPT, and that number plus DMA for
its devices.
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
"""Added to the number of a domain: the space of its devices."""
EPT_LEVELS: Final = 4
DMA_LEVELS: Final = 3
LARGE_LEVEL: Final = 2
LARGE: Final = ept.LARGE
ADDRESS: Final = ept.ADDRESS | PHYSICAL_RESERVED
"""All address bits, including those beyond MAXPHYADDR: an entry with such an address is wrong, not absent."""
OWNER_AND_STATE: Final = 0xFFFF
"""The bits of a frame word that hold owner and state."""
EPT_RIGHTS: Final = 7
DMA_RIGHTS: Final = 3
DMA_RESERVED: Final = legacy_mode.SL_SNOOP | legacy_mode.SL_TRANSIENT
"""Bits that must be clear in second-level entries of the IOMMU."""
EPT_TABLE: Final = EPT_RIGHTS | ept.RESERVED_PML4E & ~PHYSICAL_RESERVED
"""EPT entry that names a table: the rights, and the bits that must be clear."""
DMA_TABLE: Final = DMA_RIGHTS | DMA_RESERVED
"""Second-level entry of the IOMMU that names a table: the rights, and the bits that must be clear."""
LEAF_BITS: Final = ept.MEMORY_TYPE | EPT_RIGHTS | DMA_RESERVED
"""The bits that decide whether a 4 KiB leaf is well-formed."""
WRITE_BACK: Final = ept.MemoryType.WB << ept.MEMORY_TYPE_SHIFT


class Table(NamedTuple):
    """A table page: the space it translates for, its level, and the number of the first page it covers."""

    space: int
    level: int
    page: int


class Leaf(NamedTuple):
    """A leaf entry. `word` is the index of the word that holds it, `foreign` marks a leaf of a grant mapping."""

    word: int
    space: int
    level: int
    page: int
    frame: int
    rights: int
    foreign: bool

    @property
    def frames(self) -> int:
        """Number of 4 KiB frames that it maps."""
        return 1 << 9 * (self.level - 1)


class Removed(NamedTuple):
    """A leaf that was removed, or names another frame, or lost rights; `entry` is the old entry."""

    space: int
    level: int
    page: int
    entry: int


class Context(NamedTuple):
    """A present context entry: the root of its table, its domain id, and all other bits of its two words."""

    root: int
    did: int
    low: int
    high: int


class Change:
    """What changed between two updates."""

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
        """Hfn -> the old frame word, for each frame word that changed."""
        self.blocks: dict[int, tuple[int, int]] = {}
        """Hfn >> 9 -> (old, new) of 512 frames that all had the same word, and now all have another one."""
        self.scattered: dict[int, int] = self.frames
        """`frames` without the frames of `blocks`."""
        self.added: list[Leaf] = []
        """Leaves that are new or differ from before."""
        self.removed: list[Removed] = []
        self.linked: list[int] = []
        """Hfns of tables that became reachable."""
        self.emptied: list[int] = []
        """Hfns of tables that lost their last entry, or became reachable without one."""
        self.malformed: list[int] = []
        """Words of new entries that `malformation` complains about."""
        self.misplaced: list[tuple[Table, int, str]] = []
        """(table, hfn, why): an entry links frame `hfn` as that table, and it cannot be one."""
        self.contexts: list[int] = []
        """Bdfs of devices whose context entry changed."""
        self.entries: list[tuple[int, int, Grant | None, Grant | None]] = []
        """(domain, ref, old, new) of changed grant entries."""
        self.handles: list[tuple[int, int, Mapping | None, Mapping | None]] = []
        """(domain, handle, old, new) of changed grant mappings."""
        self.tables = False
        """Whether a table became reachable or unreachable."""
        self.unlinked = False
        """Whether a table became unreachable."""


def is_link(entry: int, level: int) -> bool:
    """Whether a present entry of a table of this level names another table."""
    return level > 1 and (not entry & LARGE or level == EPT_LEVELS)


def context_of(low: int, high: int) -> Context:
    """The context entry with these two words (VT-d spec, 9.3)."""
    did = high >> legacy_mode.DID_SHIFT & legacy_mode.DID_MASK
    return Context(low & ADDRESS, did, low & ~ADDRESS, high & ~(legacy_mode.DID_MASK << legacy_mode.DID_SHIFT))


def malformation(space: int, level: int, entry: int) -> str:
    """What is wrong with the bits of a present entry, apart from its address; "" if they are correct.

    Only leaves may narrow rights: an entry that names a table must give all rights, or every page below it loses them.
    For the reserved bits see SDM Vol. 3C, 29.3.3.1, and the VT-d spec, 9.8.
    """
    dma = space & DMA
    if is_link(entry, level):
        if entry & (DMA_TABLE if dma else EPT_TABLE) == (DMA_RIGHTS if dma else EPT_RIGHTS):
            return ""
        return "an entry that names a table lacks rights, or has reserved bits set"
    if level > 1 and entry >> PAGE_SHIFT & (1 << 9 * (level - 1)) - 1:
        return "a large leaf names a misaligned frame"
    if dma:
        return "a leaf has reserved bits set" if entry & DMA_RESERVED else ""
    if entry & ept.MEMORY_TYPE != WRITE_BACK:
        return "memory is not mapped as write-back"
    return "a leaf allows writes but no reads" if entry & (READ | WRITE) == WRITE else ""


def differences(old: list[T], new: list[T]) -> list[tuple[int, T, T]]:
    """(index, old, new) of the elements that differ in two lists of equal length."""
    found = []
    # Unequal elements are different objects: comparing pointers runs in C.
    different = bytes(map(is_not, old, new))
    index = different.find(1)
    while index >= 0:
        if old[index] != new[index]:
            found.append((index, old[index], new[index]))
        index = different.find(1, index + 1)
    return found


def sides_of(domain: int, mapping: Mapping) -> list[tuple[int, int]]:
    """(space, page) of each side of a grant mapping of the domain."""
    sides = []
    if mapping.host:
        sides.append((domain, mapping.gfn))
    if mapping.device:
        sides.append((domain | DMA, mapping.iova >> PAGE_SHIFT))
    return sides


def name_of(space: int) -> str:
    """A space in words, for messages."""
    return f"the devices of dom{space & ~DMA}" if space & DMA else f"dom{space}"
