"""Checks, when a frame is freed, that neither a leaf nor a cached translation names it. Helper of the oracle `stale`.

A freed frame can belong to another domain at once: what the same call unmaps or flushes later comes too late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT
from hvfuzz.machine.mmu.paging_cache import SHIFTS
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA, DMA_RIGHTS, EPT_RIGHTS, is_link, name_of
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

NEVER: Final = (-1, -1)


class FreedFrames:
    """Checks the freed frames of one machine. `report`(rule, message) is that of the oracle."""

    __slots__ = ("_cached", "_large", "_leaves", "_misses", "_report", "_scene", "_shadow")

    def __init__(self, scene: Scene, shadow: PageTableShadow, report: Callable[[str, str], None]) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._report: Final = report
        self._leaves: Final = shadow.leaves
        self._large: Final = shadow.large
        self._cached: frozenset[int] = frozenset()
        """Hfns that any cache named when `_misses` was last updated."""
        self._misses = NEVER
        """Misses of the TLB and of the IOTLB at that time."""

    def reset(self) -> None:
        """Forget what is cached: the caches were put back."""
        self._misses = NEVER

    def frame_freed(self, hfn: int) -> None:
        """Check one frame."""
        words = self._leaves.get(hfn)
        if words is not None:
            self._check_leaves(hfn, words)
        if hfn >> 9 in self._large:
            self._check_leaves(hfn, self._large[hfn >> 9])
        self._check_caches(hfn)

    def block_freed(self, first: int) -> None:
        """Check each frame of a block."""
        for hfn in range(first, first + LARGE_FRAMES):
            self._check_caches(hfn)
        for hfn in self._leaves.keys() & range(first, first + LARGE_FRAMES):
            self._check_leaves(hfn, self._leaves[hfn])
        self._check_leaves(first, self._large.get(first >> 9, ()))

    def _check_leaves(self, hfn: int, words: tuple[int, ...]) -> None:
        """Check that no leaf at `words`, as memory holds them now, names the frame."""
        for word in words:
            table = self._shadow.tables.get(word >> 9)
            entry = self._scene.words[word]
            if (
                table is not None
                and entry & (DMA_RIGHTS if table.space & DMA else EPT_RIGHTS)
                and not is_link(entry, table.level)
                and 0 <= hfn - ((entry & ADDRESS) >> PAGE_SHIFT) < 1 << 9 * (table.level - 1)
            ):
                text = f"{self._scene.describe(hfn)} was freed while {name_of(table.space)} can still reach it"
                self._report("leaf", text)

    def _check_caches(self, hfn: int) -> None:
        """Check that nothing cached names the frame."""
        machine = self._scene.machine
        tlb, iommu = machine.tlb, machine.iommu
        # A new entry is only cached after a miss. Entries that were dropped since do no harm in this set.
        misses = (tlb.misses, iommu.misses)
        if misses != self._misses:
            self._misses = misses
            self._cached = frozenset(
                [entry[0] >> PAGE_SHIFT for entry in tlb.combined.values()]
                + [entry[0] >> PAGE_SHIFT for entry in tlb.guest_physical.values()]
                + [entry[0] >> PAGE_SHIFT for entry in iommu.iotlb.values()]
                + [table[0] >> PAGE_SHIFT for table in tlb.structures.combined.values()]
                + [table[0] >> PAGE_SHIFT for table in tlb.structures.guest_physical.values()]
            )
        if hfn in self._cached:
            self._find(hfn)

    def _find(self, hfn: int) -> None:
        """Report the first entry of each cache that names the frame, if one still does."""
        machine = self._scene.machine
        page = hfn << PAGE_SHIFT
        freed = f"{self._scene.describe(hfn)} was freed while"
        for key, entry in machine.tlb.combined.items():
            if entry[0] == page:
                self._report("tlb", f"{freed} the TLB maps gva {key[3] << PAGE_SHIFT:#x} (vpid {key[0]}) to it")
                break
        for guest_key, guest_entry in machine.tlb.guest_physical.items():
            if guest_entry[0] == page:
                self._report("tlb", f"{freed} the TLB maps gpa {guest_key[1] << PAGE_SHIFT:#x} to it")
                break
        for tag, translation in machine.iommu.iotlb.items():
            if translation[0] == page:
                self._report("iotlb", f"{freed} the IOTLB maps iova {tag[1] << PAGE_SHIFT:#x} (did {tag[0]}) to it")
                break
        structures = machine.tlb.structures
        for table_key, table in structures.combined.items():
            if table[0] == page:
                gva = table_key[4] << SHIFTS[table_key[3]]
                entry_of = f"a level {table_key[3]} entry for gva {gva:#x} (vpid {table_key[0]})"
                self._report("structure", f"{freed} {entry_of} in the paging-structure cache names it")
                break
        for ept_key, below in structures.guest_physical.items():
            if below[0] == page:
                entry_of = f"a level {ept_key[1]} EPT entry for gpa {ept_key[2] << SHIFTS[ept_key[1]]:#x}"
                self._report("structure", f"{freed} {entry_of} in the paging-structure cache names it")
                break
