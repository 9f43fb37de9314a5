"""Stale translations: what is gone from the tables must be gone from the caches before anybody can rely on it.

Checked at two moments. When a frame is freed neither table nor cache may name it: from then on it can be somebody
else's, so what comes later in the same call comes too late. And at the end of each call no cache may hold a translation
that the tables do not give any more, for the leaves and context entries that the call took away or narrowed.

Paging-structure caches hold addresses of the host's, too: of EPT tables, and of the frames in which the guest keeps its
tables. What a guest's stale entry says is the guest's affair, as long as the table lies where stage 2 says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.mmu.paging_cache import SHIFTS
from hvfuzz.machine.vtd import legacy_mode
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_RIGHTS,
    EPT_RIGHTS,
    LARGE_LEVEL,
    Context,
    context_of,
    is_link,
    name_of,
)
from hvfuzz.oracles.shadow.guest_walk import ept_table
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

if TYPE_CHECKING:
    from hvfuzz.machine.mmu.paging_cache import CombinedTable, CombinedTableKey
    from hvfuzz.machine.vtd.walker import Context as CachedContext
    from hvfuzz.oracles.shadow.changes import Change

NOTHING_CACHED = (-1, -1)


class Stale(Oracle):
    """No entry of a TLB, paging-structure cache, IOTLB or context cache outlives what it was made from."""

    name = "stale"
    shadowed = True
    rules: ClassVar[Rules] = {
        "leaf": "a frame is freed, or loses a pin, when the leaf that stood for that is gone",
        "order": "an entry is written before it is flushed: else it can be cached again in between",
        "tlb": "a processor's translation goes when its stage-2 leaf goes or loses rights, before its frame is freed",
        "iotlb": "a device's translation goes when its leaf goes or loses rights, before its frame is freed",
        "structure": "a cached paging-structure entry goes when the table it names goes, or is nothing of the domain's",
        "context": "a cached context entry goes when the entry in memory changes",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._cached: frozenset[int] = frozenset()
        self._when = NOTHING_CACHED
        self._space_of_table: dict[int, int] = {}
        self._leaves = shadow.leaves
        self._large = shadow.large

    def attach(self) -> None:
        """Learn which EPT belongs to whom."""
        self._space_of_table = {hfn << PAGE_SHIFT: space for space, hfn in self.shadow.roots.items() if not space & DMA}

    def reset(self) -> None:
        """The caches are as they were at the snapshot."""
        self._when = NOTHING_CACHED

    # A frame goes.

    def frame_freed(self, hfn: int) -> None:
        """Nothing may name a frame that is free."""
        words = self._leaves.get(hfn)
        if words is not None:
            self._check_words(hfn, words)
        if hfn >> 9 in self._large:
            self._check_words(hfn, self._large[hfn >> 9])
        self._check_caches(hfn)

    def block_freed(self, first: int) -> None:
        """As for each of its frames."""
        for hfn in range(first, first + LARGE_FRAMES):
            self._check_caches(hfn)
        for hfn in self._leaves.keys() & range(first, first + LARGE_FRAMES):
            self._check_words(hfn, self._leaves[hfn])
        self._check_words(first, self._large.get(first >> 9, ()))

    def _check_words(self, hfn: int, words: tuple[int, ...]) -> None:
        """No leaf that the shadow knows, at these words, may name the freed frame still: by the bytes of now."""
        for word in words:
            table = self.shadow.tables.get(word >> 9)
            entry = self.scene.words[word]
            if (
                table is not None
                and entry & (DMA_RIGHTS if table.space & DMA else EPT_RIGHTS)
                and not is_link(entry, table.level)
                and 0 <= hfn - ((entry & ADDRESS) >> PAGE_SHIFT) < 1 << 9 * (table.level - 1)
            ):
                self.report("leaf", f"{name_of(table.space)} reach {self.scene.describe(hfn)} when that is freed")

    def _check_caches(self, hfn: int) -> None:
        """Nothing cached may name the freed frame."""
        machine = self.scene.machine
        tlb, iommu = machine.tlb, machine.iommu
        # Something new can only be cached after a miss. (What was dropped since does no harm in this set.)
        when = (tlb.misses, iommu.misses)
        if when != self._when:
            self._when = when
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
        """Report what names the freed frame, if it is there still."""
        machine = self.scene.machine
        page = hfn << PAGE_SHIFT
        what = f"still names {self.scene.describe(hfn)} when that is freed"
        for key, entry in machine.tlb.combined.items():
            if entry[0] == page:
                self.report("tlb", f"the translation of gva {key[3] << PAGE_SHIFT:#x} (vpid {key[0]}) {what}")
                break
        for guest_key, guest_entry in machine.tlb.guest_physical.items():
            if guest_entry[0] == page:
                self.report("tlb", f"the translation of gpa {guest_key[1] << PAGE_SHIFT:#x} {what}")
                break
        for tag, translation in machine.iommu.iotlb.items():
            if translation[0] == page:
                self.report("iotlb", f"the translation of iova {tag[1] << PAGE_SHIFT:#x} (did {tag[0]}) {what}")
                break
        structures = machine.tlb.structures
        for table_key, table in structures.combined.items():
            if table[0] == page:
                gva = table_key[4] << SHIFTS[table_key[3]]
                self.report(
                    "structure", f"the way to gva {gva:#x} (vpid {table_key[0]}) by level {table_key[3]} {what}"
                )
                break
        for ept_key, below in structures.guest_physical.items():
            if below[0] == page:
                gpa = ept_key[2] << SHIFTS[ept_key[1]]
                self.report("structure", f"the way to gpa {gpa:#x} by level {ept_key[1]} of the EPT {what}")
                break

    # A leaf goes.

    def shadow_changed(self, change: Change) -> None:
        """No cache may hold what these leaves and context entries gave."""
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
                self._compare("tlb", space, page, entry[0], entry[1], f"gva {key[3] << PAGE_SHIFT:#x}")
        for (table, page), cached in tlb.guest_physical.items():
            space = spaces.get(table, -1)
            if (space, page) in small or (large and _within(large, space, page)):
                self._compare("tlb", space, page, cached[0], cached[1], "the gpa")
        for table_key, structure in tlb.structures.combined.items():
            space = spaces.get(table_key[2], -1)
            page = structure[1] >> PAGE_SHIFT
            if (space, page) in small or (large and _within(large, space, page)):
                self._compare_table(space, table_key, structure)

    def _compare_table(self, space: int, key: CombinedTableKey, table: CombinedTable) -> None:
        """The guest's table that a cached entry names must lie where stage 2 says now, and be allowed as much."""
        what = f"a table of the guest's, on the way to gva {key[4] << SHIFTS[key[3]]:#x},"
        self._compare("structure", space, table[1] >> PAGE_SHIFT, table[0], table[2], what)

    def _check_ept_tables(self) -> None:
        """The EPT table that a cached entry names must be the one that the tables above it name now."""
        machine = self.scene.machine
        for (root, level, prefix), (table, rights, _) in machine.tlb.structures.guest_physical.items():
            space = self._space_of_table.get(root, -1)
            if space >= 0:
                now = ept_table(machine.memory, root, prefix << SHIFTS[level], level)
                if now is None or now[0] != table or rights & ~now[1]:
                    text = f"page {prefix << SHIFTS[level] - PAGE_SHIFT:#x}: table {table:#x}, rights {rights} cached"
                    says = "nothing" if now is None else f"table {now[0]:#x}, rights {now[1]}"
                    self.report(
                        "structure", f"{name_of(space)}, {text}, but the EPT entry of level {level} says {says}"
                    )

    def _check_iotlb(self, small: set[tuple[int, int]], large: set[tuple[int, int, int]]) -> None:
        for (did, page), (hpa, rights) in self.scene.machine.iommu.iotlb.items():
            space = did - 1 | DMA
            if (space, page) in small or (large and _within(large, space, page)):
                self._compare("iotlb", space, page, hpa, rights & (READ | WRITE), "the iova")

    def _compare(self, rule: str, space: int, page: int, hpa: int, rights: int, what: str) -> None:
        """Compare a cached translation with what the tables say now."""
        leaf = self.shadow.find(space, page)
        if leaf is not None:
            offset = page & leaf.frames - 1
            if leaf.frame + offset == hpa >> PAGE_SHIFT and not rights & ~leaf.rights:
                return
        now = "nothing is mapped there" if leaf is None else f"the leaf says {leaf.frame:#x}, rights {leaf.rights}"
        text = f"{name_of(space)}, page {page:#x}: {what} is cached as frame {hpa >> PAGE_SHIFT:#x}, rights {rights}"
        self.report(rule, f"{text}, but {now}")

    def _check_context(self, bdf: int) -> None:
        """The cached context entry of a device must be the one in memory."""
        iommu = self.scene.machine.iommu
        cached = iommu.context_cache.get(bdf)
        now = self.shadow.contexts.get(bdf)
        if cached is not None and _entry_of(cached) != now:
            text = f"device {bdf:#06x}: table {cached.slptptr:#x}, did {cached.did} cached"
            self.report("context", f"{text}, but the entry says {now}")
        used = {context.did for context in self.shadow.contexts.values()}
        for (did, page), _ in iommu.iotlb.items():
            if did not in used:
                text = f"translation of iova {page << PAGE_SHIFT:#x} for did {did}"
                self.report("iotlb", f"a {text}, to which no device belongs any more")
                break

    # Everything.

    def audit(self) -> None:
        """Check every cached translation and context entry."""
        machine = self.scene.machine
        spaces = self._space_of_table
        for key, entry in machine.tlb.combined.items():
            space = spaces.get(key[2], -1)
            if space >= 0:
                what = f"gva {key[3] << PAGE_SHIFT:#x}"
                self._compare("tlb", space, entry[5] >> PAGE_SHIFT, entry[0], entry[1], what)
        for (table, page), cached in machine.tlb.guest_physical.items():
            if table in spaces:
                self._compare("tlb", spaces[table], page, cached[0], cached[1], "the gpa")
        for table_key, structure in machine.tlb.structures.combined.items():
            if table_key[2] in spaces:
                self._compare_table(spaces[table_key[2]], table_key, structure)
        self._check_ept_tables()
        for (did, page), (hpa, rights) in machine.iommu.iotlb.items():
            if did - 1 | DMA in self.shadow.roots:
                self._compare("iotlb", did - 1 | DMA, page, hpa, rights & (READ | WRITE), "the iova")
        for bdf in sorted(machine.iommu.context_cache):
            self._check_context(bdf)


def _entry_of(cached: CachedContext) -> Context:
    """The context entry that a cached one was made from."""
    low, high = legacy_mode.context_entry(cached.did, cached.slptptr, cached.levels, fpd=cached.fpd)
    return context_of(low | cached.tt << legacy_mode.TT_SHIFT, high)


def _within(large: set[tuple[int, int, int]], space: int, page: int) -> bool:
    """Whether the page lies in one of the larger leaves, given as (space, first page >> 9, level)."""
    return (space, page >> 9, LARGE_LEVEL) in large or (space, page >> 18 << 9, LARGE_LEVEL + 1) in large
