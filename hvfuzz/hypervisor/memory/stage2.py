"""Stage 2: the EPT tables of one domain (SDM Vol. 3C 29.3), with 2 MiB leaves that split and merge."""

from __future__ import annotations

import struct

from hvfuzz.hypervisor.core.host import HostBug, HostMemory
from hvfuzz.hypervisor.memory.frames import FrameTable
from hvfuzz.hypervisor.memory.table_pool import TablePool
from hvfuzz.hypervisor.memory.table_tree import (
    ADDRESS,
    BLOCK_LEVEL,
    BLOCK_PAGES,
    ENTRIES,
    FOREIGN,
    LARGE,
    RIGHTS,
    TableTree,
    is_table,
    leaf_frame,
)
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.mmu import ept

LEVELS = 4
WRITE_BACK = ept.MemoryType.WB << ept.MEMORY_TYPE_SHIFT
_TABLE = struct.Struct(f"<{ENTRIES}Q")


class Stage2(TableTree):
    """EPT of one domain, gfn to host frame. Mapping and unmapping update the `maps` count of the frames."""

    __slots__ = ()

    def __init__(self, host: HostMemory, frames: FrameTable, pool: TablePool, root: int) -> None:
        super().__init__(host, frames, pool, root, LEVELS)

    @property
    def eptp(self) -> int:
        """EPT pointer of the vCPUs: write-back, four levels, no accessed and dirty flags (SDM Vol. 3C, table 25-9)."""
        return ept.eptp_of(self.root)

    def map(self, gfn: int, hfn: int, rights: int, *, block: bool = False, foreign: bool = False) -> None:
        """Map the absent `gfn` to `hfn` with `rights`; with `block`, 512 aligned pages by one large leaf.

        The check has established that the pool has the tables (`tables_needed`).
        """
        address = self.slot(gfn, BLOCK_LEVEL if block else 1)
        if self.host.read64(address) & RIGHTS:
            raise HostBug(f"gfn {gfn:#x} is mapped already")
        entry = hfn << PAGE_SHIFT | WRITE_BACK | rights
        if block:
            entry |= LARGE
        if foreign:
            entry |= FOREIGN
        if block:
            self.frames.add_block_map(hfn)
        else:
            self.frames.add_map(hfn)
        self.host.write64(address, entry)

    def unmap(self, gfn: int) -> bool:
        """Unmap one page, flush, and drop one mapping of its frame.

        A large leaf is split first. Returns False, with nothing changed, if the pool has no page for that.
        """
        entry, level, address = self.lookup(gfn)
        if not entry & RIGHTS:
            raise HostBug(f"gfn {gfn:#x} is not mapped")
        if level == BLOCK_LEVEL:
            if not self.split(gfn):
                return False
            entry, level, address = self.lookup(gfn)
        self.host.write64(address, 0)
        self.flush()
        self.frames.drop_map(leaf_frame(entry, level, gfn))
        self.trim(gfn, address)
        return True

    def unmap_block(self, gfn: int) -> None:
        """Unmap the whole large leaf that starts at `gfn`, flush, and drop one mapping of each of its frames."""
        entry, level, address = self.lookup(gfn)
        if level != BLOCK_LEVEL or not entry & RIGHTS:
            raise HostBug(f"no large leaf at gfn {gfn:#x}")
        self.host.write64(address, 0)
        self.flush()
        self.frames.drop_block_map((entry & ADDRESS) >> PAGE_SHIFT)
        self.trim(gfn, address)

    def replace(self, gfn: int, hfn: int) -> bool:
        """Map `gfn` to `hfn`, keeping its rights; flush, and update both counts. Returns False as `unmap` does."""
        entry, level, address = self.lookup(gfn)
        if level == BLOCK_LEVEL:
            if not self.split(gfn):
                return False
            entry, level, address = self.lookup(gfn)
        self.frames.add_map(hfn)
        self.host.write64(address, entry & ~ADDRESS | hfn << PAGE_SHIFT)
        self.flush()
        self.frames.drop_map(leaf_frame(entry, level, gfn))
        return True

    def split(self, gfn: int) -> bool:
        """Replace the large leaf that maps `gfn` by a table of 512 small ones; False if the pool is empty."""
        entry, _, address = self.lookup(gfn)
        table = self.pool.take()
        if table < 0:
            return False
        first = entry & ~LARGE
        leaves = _TABLE.pack(*range(first, first + BLOCK_PAGES * PAGE_SIZE, PAGE_SIZE))
        self.host.write(table << PAGE_SHIFT, leaves)
        self.host.write64(address, table << PAGE_SHIFT | self.table_rights)
        self.flush()
        return True

    def merge(self, address: int, entry: int, block: int) -> None:
        """Replace the table entry `entry` at `address` by the large leaf `block`, and free the table."""
        self.host.write64(address, block)
        # Flush before the page is reused: processors may have cached its address (SDM Vol. 3C, 29.4.2).
        self.flush()
        self.pool.put((entry & ADDRESS) >> PAGE_SHIFT)

    def protect(self, first: int, count: int, rights: int) -> bool:
        """Set the rights of the present pages of the range, merge tables where possible, and flush.

        Large leaves that lie only partly in the range are split. Returns False, with nothing changed, if the pool has
        too few pages for that.
        """
        cut = self.blocks_cut(first, count, rights)
        if len(cut) > len(self.pool.pages):
            return False
        for gfn in cut:
            self.split(gfn)
        self.walk(first, count, _Protection(self, first, first + count, rights))
        self.flush()
        return True

    def blocks_cut(self, first: int, count: int, rights: int = -1) -> list[int]:
        """One gfn of each large leaf that lies partly in the range, except for leaves that already have `rights`."""
        cut: list[int] = []
        for gfn in (first,) if count == 1 else (first, first + count - 1):
            entry, level, _ = self.lookup(gfn)
            start = gfn & -BLOCK_PAGES
            whole = first <= start and start + BLOCK_PAGES <= first + count
            if level != BLOCK_LEVEL or not entry & RIGHTS or whole or entry & RIGHTS == rights:
                continue
            if not cut or cut[0] & -BLOCK_PAGES != start:
                cut.append(gfn)
        return cut

    def mergeable(self, table: int, start: int, end: int, rights: int) -> int:
        """The large leaf that can replace the table at `table` once its entries `start` .. `end - 1` have `rights`.

        0 unless its leaves name 512 consecutive owned frames, 2 MiB aligned, then with equal rights.
        """
        first = self.host.read64(table)
        wanted = (first & ~RIGHTS | rights) if start == 0 else first
        if not wanted & RIGHTS or first & FOREIGN or first & ADDRESS & (BLOCK_PAGES * PAGE_SIZE - 1):
            return 0
        if wanted & RIGHTS != rights:
            return 0
        entries = _TABLE.unpack(self.host.read(table, PAGE_SIZE))
        for index, entry in enumerate(entries):
            if not entry & RIGHTS:
                return 0
            if start <= index < end:
                entry = entry & ~RIGHTS | rights
            if entry != wanted + index * PAGE_SIZE:
                return 0
        return wanted | LARGE

    def any_present(self, first: int, count: int) -> bool:
        """Whether any page of the range is mapped."""
        return any(entry & RIGHTS for _, _, _, entries in self.runs(first, count) for entry in entries)

    def flush_tables(self, page: int) -> None:
        """Drop everything cached from these tables: INVEPT has no single-page form (SDM Vol. 3C, 29.4.3.1)."""
        self.flush()

    def flush(self) -> None:
        """Drop all combined and guest-physical mappings cached from these tables (INVEPT, single context)."""
        machine = self.host.machine
        machine.clock.cycles += Cost.FLUSH
        machine.tlb.invept(self.root)


class _Protection:
    """The visitor of `Stage2.protect`."""

    __slots__ = ("end", "first", "rights", "stage2")

    def __init__(self, stage2: Stage2, first: int, end: int, rights: int) -> None:
        self.stage2 = stage2
        self.first = first
        self.end = end
        self.rights = rights

    def table(self, page: int, level: int, entry: int, address: int) -> None:
        """Merge a table of small leaves, if possible, before the walk descends into it."""
        if level != BLOCK_LEVEL or not is_table(entry, level):
            return
        base = page & -BLOCK_PAGES
        start = max(self.first - base, 0)
        end = min(self.end - base, BLOCK_PAGES)
        block = self.stage2.mergeable(entry & ADDRESS, start, end, self.rights)
        if block:
            self.stage2.merge(address, entry, block)

    def leaf(self, page: int, level: int, entry: int, address: int) -> None:
        """Set the rights of a present leaf."""
        if entry & RIGHTS:
            self.stage2.host.write64(address, entry & ~RIGHTS | self.rights)
