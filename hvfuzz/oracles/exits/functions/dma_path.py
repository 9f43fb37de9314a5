"""Where a DMA request leads: Intel's VT-d specification (D51397), legacy mode, over the bytes of the tables.

What the IOMMU has cached counts first, as in hardware: whether a stale entry may be there is a question of the oracle
`stale`. Nothing of the machine runs here, so a prediction costs no cycles and fills no cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hvfuzz.machine.addresses import MAXPHYADDR, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene

INTERRUPTS: Final = 0xFEE
"""Addresses with these bits from 20 on are interrupt messages (3.14)."""
PRESENT: Final = 1
ADDRESS: Final = (1 << 52) - PAGE_SIZE
ROOT_RESERVED: Final = 0xFFE
CONTEXT_RESERVED: Final = 0xFF0
WIDTH: Final = 7
"""Context entry, bits 66 to 64: 1 for 3 levels of tables, 2 for 4 (9.3)."""
TRANSLATES, PASSES_THROUGH = 0, 2
"""Context entry, bits 3 and 2 (9.3)."""
DID_SHIFT: Final = 8
DID_MASK: Final = 0xFFFF
LARGE: Final = 1 << 7
ENTRY_RESERVED: Final = 1 << 11 | 1 << 62 | (1 << 52) - (1 << MAXPHYADDR)
"""Bits of a second-level entry without a snoop control and a device TLB (9.8)."""


class Context(NamedTuple):
    """What a context entry says: domain id, second-level table, levels, translation type."""

    did: int
    table: int
    levels: int
    kind: int


class DmaPath:
    """The path of DMA requests on one machine."""

    __slots__ = ("_iommu", "_size", "_words")

    def __init__(self, scene: Scene) -> None:
        self._iommu: Final = scene.machine.iommu
        self._words: Final = scene.words
        self._size: Final = scene.memory_size

    def translate(self, bdf: int, iova: int, access: int) -> int | None:
        """The host physical address of an `access` by function `bdf` at `iova`; None if the IOMMU blocks it."""
        if not self._iommu.enabled or iova >> 20 == INTERRUPTS:
            return iova
        cached = self._iommu.context_cache.get(bdf)
        context = self._context(bdf) if cached is None else Context(*cached[:3], int(cached[3]))
        if context is None or iova >> PAGE_SHIFT + 9 * context.levels:
            return None
        if context.kind == PASSES_THROUGH:
            return iova
        entry = self._iommu.iotlb.get((context.did, iova >> PAGE_SHIFT))
        if entry is not None and entry[1] & access == access:
            return entry[0] | iova & PAGE_MASK
        return self._walk(context, iova, access)

    def _context(self, bdf: int) -> Context | None:
        """Read the context entry of a function (9.1, 9.3); None if there is no valid one."""
        table = self._pair(self._iommu.root_table, bdf >> 8)
        if table is None or table[0] & ROOT_RESERVED:
            return None
        entry = self._pair(table[0] & ADDRESS, bdf & 0xFF)
        if entry is None:
            return None
        low, high = entry
        kind, width = low >> 2 & 3, high & WIDTH
        if low & CONTEXT_RESERVED or kind not in (TRANSLATES, PASSES_THROUGH) or width not in (1, 2):
            return None
        return Context(high >> DID_SHIFT & DID_MASK, low & ADDRESS, width + 2, kind)

    def _pair(self, table: int, index: int) -> tuple[int, int] | None:
        """The two words of an entry of a root or context table; None if it is absent."""
        if table >= self._size:
            return None
        word = (table >> 3) + 2 * index
        low, high = self._words[word], self._words[word + 1]
        return (low, high) if low & PRESENT else None

    def _walk(self, context: Context, iova: int, access: int) -> int | None:
        """Walk the second-level tables (9.8): every entry on the way must allow the access."""
        table = context.table
        for level in range(context.levels, 0, -1):
            shift = PAGE_SHIFT + 9 * (level - 1)
            if table >= self._size:
                return None
            entry = self._words[(table >> 3) + (iova >> shift & 511)]
            if entry & access != access or entry & ENTRY_RESERVED:
                return None
            table = entry & ADDRESS
            if level == 1 or entry & LARGE:
                inside = (1 << shift) - 1
                if level == 4 or table & inside or table >> 20 == INTERRUPTS:
                    return None
                return table | iova & inside
        return None
