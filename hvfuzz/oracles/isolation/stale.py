"""Stale translations: caches must drop what is removed from the tables, before the removed frame is reused.

This is checked twice. When a frame is freed, neither a table nor a cache may name it: see `freed_frames`. And
at the end of each call no cache may hold a translation that the tables no longer give, for the leaves and context
entries that the call removed or narrowed.

Paging-structure caches hold host addresses too: of EPT tables, and of the frames in which the guest keeps its tables
(Intel SDM Vol. 3C, 29.4.2). What a guest's stale entry says is up to the guest, as long as the table lies where stage 2
says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, READ, WRITE, rights_text
from hvfuzz.machine.mmu.paging_cache import SHIFTS
from hvfuzz.machine.vtd import legacy_mode
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.hardware import power_on
from hvfuzz.oracles.isolation.freed_frames import FreedFrames
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import DMA, LARGE_LEVEL, Context, context_of, name_of
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow
from hvfuzz.oracles.shadow.stage2_walk import ept_table

if TYPE_CHECKING:
    from hvfuzz.machine.mmu.paging_cache import CombinedTable, CombinedTableKey
    from hvfuzz.machine.vtd.walker import Context as CachedContext
    from hvfuzz.oracles.shadow.changes import Change


class Stale(Oracle):
    """No entry of a TLB, paging-structure cache, IOTLB or context cache outlives the entry it was made from."""

    name = "stale"
    shadowed = True
    rules: ClassVar[Rules] = {
        "leaf": "a frame is scrubbed, freed, or loses a count or pin, only after the leaf that maps it is removed",
        "order": "an entry is written before it is flushed; otherwise it can be cached again in between",
        "unflushed": "what is taken away is flushed, cached or not, before it is reused and before the call ends",
        "tlb": "a TLB entry is dropped when its stage-2 leaf is removed or loses rights, and before its frame is freed",
        "iotlb": "an IOTLB entry is dropped when its leaf is removed or loses rights, and before its frame is freed",
        "structure": "a paging-structure cache entry is dropped when the table it names is removed or loses rights",
        "invalidation": "an invalidation of the TLB drops what it names, no less and no more",
        "remapping": "a request to the IOMMU, or a command, has the outcome and leaves what the specification says",
        "context": "a cached context entry is dropped when the entry in memory changes",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self.reports = 0
        """Number of calls of `report`, by which `host_writes` knows that a missing flush is told already."""
        freed_frames = FreedFrames(scene, shadow, self.report)
        self.frame_freed: Final = freed_frames.frame_freed
        self.block_freed: Final = freed_frames.block_freed
        self._reset_freed_frames: Final = freed_frames.reset
        self._space_of_table: dict[int, int] = {}
        """Address of an EPT root -> the space that it translates for."""

    def attach(self) -> None:
        """Learn the EPT roots, and check what no boot changes."""
        for text in power_on.faults(self.scene.machine):
            self.report("remapping", f"after power-on, {text}")
        self._space_of_table = {hfn << PAGE_SHIFT: space for space, hfn in self.shadow.roots.items() if not space & DMA}

    def reset(self) -> None:
        """The caches are as they were at the snapshot."""
        self._reset_freed_frames()

    def report(self, rule: str, message: str) -> None:
        """See `Oracle.report`."""
        self.reports += 1
        super().report(rule, message)

    def shadow_changed(self, change: Change) -> None:
        """Check the cached entries that these leaves, tables and context entries gave."""
        tlb, iommu = self.scene.machine.tlb, self.scene.machine.iommu
        if change.removed and (tlb.combined or tlb.guest_physical or iommu.iotlb or tlb.structures.combined):
            small = {(space, page) for space, level, page, _ in change.removed if level == 1}
            large = {(space, page >> 9, level) for space, level, page, _ in change.removed if level >= LARGE_LEVEL}
            self._check_tlb(small, large)
            self._check_iotlb(small, large)
        if change.unlinked:
            self._check_ept_tables()
        for bdf in change.contexts:
            self._check_context(bdf)

    def _check_tlb(self, small: set[tuple[int, int]], large: set[tuple[int, int, int]]) -> None:
        tlb = self.scene.machine.tlb
        spaces = self._space_of_table
        for key, entry in tlb.combined.items():
            space = spaces.get(key[2], -1)
            page = entry[5] >> PAGE_SHIFT
            if (space, page) in small or (large and _within(large, space, page)):
                self._compare("tlb", space, page, entry[0], entry[1], f"the TLB maps gva {key[3] << PAGE_SHIFT:#x}")
        for (table, page), cached in tlb.guest_physical.items():
            space = spaces.get(table, -1)
            if (space, page) in small or (large and _within(large, space, page)):
                self._compare("tlb", space, page, cached[0], cached[1], "the TLB maps it")
        for table_key, structure in tlb.structures.combined.items():
            space = spaces.get(table_key[2], -1)
            page = structure[1] >> PAGE_SHIFT
            if (space, page) in small or (large and _within(large, space, page)):
                self._compare_table(space, table_key, structure)

    def _compare_table(self, space: int, key: CombinedTableKey, table: CombinedTable) -> None:
        """The guest's table that a cached entry names must lie where stage 2 says now, with at least those rights."""
        gva = key[4] << SHIFTS[key[3]]
        what = f"a paging-structure cache leads gva {gva:#x}, for its level {key[3] - 1} table,"
        self._compare("structure", space, table[1] >> PAGE_SHIFT, table[0], table[2], what)

    def _check_ept_tables(self) -> None:
        """The EPT table that a cached entry names must be the one that the tables in memory name now."""
        machine = self.scene.machine
        for (root, level, prefix), (table, rights, _) in machine.tlb.structures.guest_physical.items():
            space = self._space_of_table.get(root, -1)
            if space >= 0:
                now = ept_table(machine.memory, root, prefix << SHIFTS[level], level)
                if now is None or now[0] != table or rights & ~now[1]:
                    where = (
                        f"{name_of(space)}, page {prefix << SHIFTS[level] - PAGE_SHIFT:#x}, EPT entry of level {level}"
                    )
                    says = "nothing" if now is None else f"table {now[0]:#x} with rights {rights_text(now[1])}"
                    text = f"table {table:#x} with rights {rights_text(rights)} is cached, memory says {says}"
                    self.report("structure", f"{where}: {text}")

    def _check_iotlb(self, small: set[tuple[int, int]], large: set[tuple[int, int, int]]) -> None:
        for (did, page), (hpa, rights) in self.scene.machine.iommu.iotlb.items():
            space = did - 1 | DMA
            if (space, page) in small or (large and _within(large, space, page)):
                self._compare("iotlb", space, page, hpa, rights & (READ | WRITE), "the IOTLB maps it")

    def _compare(self, rule: str, space: int, page: int, hpa: int, rights: int, what: str) -> None:
        """Compare a cached translation with what the tables say now."""
        leaf = self.shadow.find(space, page)
        if leaf is not None:
            offset = page & leaf.frames - 1
            if leaf.frame + offset == hpa >> PAGE_SHIFT and not rights & ~leaf.rights:
                return
        now = "nothing" if leaf is None else f"frame {leaf.frame:#x}, rights {rights_text(leaf.rights)}"
        cached = f"{what} to frame {hpa >> PAGE_SHIFT:#x}, rights {rights_text(rights)}"
        address = f"{'iova' if space & DMA else 'gpa'} {page << PAGE_SHIFT:#x}"
        self.report(rule, f"{address} of {name_of(space)}: {cached}; the tables map it to {now}")

    def _check_context(self, bdf: int) -> None:
        """The cached context entry of a device must be the one in memory."""
        iommu = self.scene.machine.iommu
        cached = iommu.context_cache.get(bdf)
        now = self.shadow.contexts.get(bdf)
        if cached is not None and _entry_of(cached) != now:
            text = f"table {cached.slptptr:#x} with did {cached.did} is cached, memory says {now}"
            self.report("context", f"device {bdf:#06x}: {text}")
        used = {context.did for context in self.shadow.contexts.values()}
        for (did, page), _ in iommu.iotlb.items():
            if did not in used:
                text = f"iova {page << PAGE_SHIFT:#x} is cached for did {did}, which no device uses any more"
                self.report("iotlb", text)
                break

    def audit(self) -> None:
        """Check every cached translation and context entry."""
        machine = self.scene.machine
        spaces = self._space_of_table
        for key, entry in machine.tlb.combined.items():
            space = spaces.get(key[2], -1)
            if space >= 0:
                what = f"the TLB maps gva {key[3] << PAGE_SHIFT:#x}"
                self._compare("tlb", space, entry[5] >> PAGE_SHIFT, entry[0], entry[1], what)
        for (table, page), cached in machine.tlb.guest_physical.items():
            if table in spaces:
                self._compare("tlb", spaces[table], page, cached[0], cached[1], "the TLB maps it")
        for table_key, structure in machine.tlb.structures.combined.items():
            if table_key[2] in spaces:
                self._compare_table(spaces[table_key[2]], table_key, structure)
        self._check_ept_tables()
        for (did, page), (hpa, rights) in machine.iommu.iotlb.items():
            if did - 1 | DMA in self.shadow.roots:
                self._compare("iotlb", did - 1 | DMA, page, hpa, rights & (READ | WRITE), "the IOTLB maps it")
        for bdf in sorted(machine.iommu.context_cache):
            self._check_context(bdf)


def _entry_of(cached: CachedContext) -> Context:
    """The context entry in memory that a cached one was made from."""
    low, high = legacy_mode.context_entry(cached.did, cached.slptptr, cached.levels, fpd=cached.fpd)
    return context_of(low | cached.tt << legacy_mode.TT_SHIFT, high)


def _within(large: set[tuple[int, int, int]], space: int, page: int) -> bool:
    """Whether the page lies in one of the larger leaves, given as (space, first page >> 9, level)."""
    return (space, page >> 9, LARGE_LEVEL) in large or (space, page >> 18 << 9, LARGE_LEVEL + 1) in large
