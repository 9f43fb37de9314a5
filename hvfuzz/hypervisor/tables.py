"""Radix trees of table pages in emulated memory: what EPT and VT-d second-level tables have in common.

A page number is a guest frame number (EPT) or an I/O virtual address shifted right by 12 (VT-d). Level 1 entries map
4 KiB, level 2 entries 2 MiB or a table of level 1, and so on up to the root's level. The low rights bits, the large
bit 7 and the address field are the same in both formats (SDM Vol. 3C 29.3.2, VT-d spec 9.8); bit 53 is ignored by
both and says here that a leaf names another domain's frame.

Law of every tree: a table page other than the root holds at least one present entry, else it is back in the pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from hvfuzz.hypervisor.frames import FrameState, FrameTable
from hvfuzz.hypervisor.host import HostBug, HostFault, HostMemory
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE

READ = 1
WRITE = 2
EXECUTE = 4
RIGHTS = 7
LARGE = 1 << 7
FOREIGN = 1 << 53
"""Software bit of a leaf: made by a grant mapping, the frame is another domain's."""
ADDRESS = 0x000F_FFFF_FFFF_F000
ENTRIES = 512
BLOCK_LEVEL = 2
BLOCK_PAGES = 512

POISON = 0xF5F5_F5F5_F5F5_F502
"""Every word of a pooled table page: hardware or walkers that still descend into it see reserved bits set."""

_EMPTY_PAGE = bytes(PAGE_SIZE)


def is_table(entry: int, level: int) -> bool:
    """Does `entry`, read at `level`, point to a further table?"""
    return level > 1 and entry & RIGHTS != 0 and not entry & LARGE


def leaf_frame(entry: int, level: int, page: int) -> int:
    """The host frame that the present leaf `entry` of `level` names for `page`."""
    frame = (entry & ADDRESS) >> PAGE_SHIFT
    return frame + (page & BLOCK_PAGES - 1) if level == BLOCK_LEVEL else frame


class TablePool:
    """The free table pages of one domain: `pages` is the domain's pool, lent to its trees page by page."""

    __slots__ = ("frames", "host", "owner", "pages")

    def __init__(self, host: HostMemory, frames: FrameTable, owner: int, pages: list[int]) -> None:
        self.host = host
        self.frames = frames
        self.owner = owner
        self.pages = pages

    def take(self) -> int:
        """A zeroed table page for a tree, or -1 when the pool is empty."""
        if not self.pages:
            return -1
        hfn = self.pages.pop()
        self.frames.assign(hfn, self.owner, FrameState.TABLE)
        self.host.observer.frame_allocated(hfn, self.owner, FrameState.TABLE)
        self.host.fill(hfn)
        return hfn

    def put(self, hfn: int) -> None:
        """Take back a table page that nothing refers to any more, and poison it."""
        self.host.fill(hfn, POISON)
        self.frames.assign(hfn, self.owner, FrameState.POOL)
        self.pages.append(hfn)
        self.host.observer.frame_freed(hfn)


class Visitor(Protocol):
    """What a walk calls for each entry of its range."""

    def table(self, page: int, level: int, entry: int, address: int) -> None:
        """Before the walk descends `entry`; the visitor may replace it, the walk goes on with what is there then."""

    def leaf(self, page: int, level: int, entry: int, address: int) -> None:
        """At a present leaf or an absent entry of any level; `page` is the first of the range in it."""


class TableTree:
    """A tree of tables: look up, walk, and the making and trimming of table pages."""

    __slots__ = ("frames", "host", "pool", "root", "top")

    table_rights = RIGHTS

    def __init__(self, host: HostMemory, frames: FrameTable, pool: TablePool, root: int, top: int) -> None:
        self.host = host
        self.frames = frames
        self.pool = pool
        self.root = root
        self.top = top

    def lookup(self, page: int) -> tuple[int, int, int]:
        """(entry, level, host physical address of the entry) where the walk for `page` ends.

        The entry is a present leaf, or absent (no right) at whatever level.
        """
        level = self.top
        shift = 9 * (level - 1)
        if page >> shift + 9:
            raise HostFault(f"page {page:#x} lies beyond the tables")
        read64 = self.host.read64
        address = self.root + (page >> shift & 511) * 8
        entry = read64(address)
        while level > 1 and entry & RIGHTS and not entry & LARGE:
            level -= 1
            shift -= 9
            address = (entry & ADDRESS) + (page >> shift & 511) * 8
            entry = read64(address)
        return entry, level, address

    def walk(self, first: int, count: int, visitor: Visitor) -> None:
        """Show every entry that concerns the pages `first` .. `first + count - 1` to `visitor`, in order."""
        if first < 0 or first + count > 1 << 9 * self.top:
            raise HostFault(f"pages {first:#x}+{count:#x} lie beyond the tables")
        self._walk_table(self.root, self.top, first, first + count, visitor)

    def _walk_table(self, table: int, level: int, first: int, end: int, visitor: Visitor) -> None:
        shift = 9 * (level - 1)
        read64 = self.host.read64
        page = first
        while page < end:
            address = table + (page >> shift & 511) * 8
            entry = read64(address)
            after = min((page >> shift) + 1 << shift, end)
            if level > 1 and is_table(entry, level):
                visitor.table(page, level, entry, address)
                entry = self.reload(address, entry)
            if level > 1 and is_table(entry, level):
                self._walk_table(entry & ADDRESS, level - 1, page, after, visitor)
            else:
                visitor.leaf(page, level, entry, address)
            page = after

    def reload(self, address: int, seen: int) -> int:
        """The entry to go on with after the visitor saw `seen` at `address`: it may have freed the table under it."""
        return self.host.read64(address)

    def tables_needed(self, pages: Iterable[int], level: int = 1) -> int:
        """Table pages that mapping all of `pages` by leaves of `level` would take from the pool."""
        missing = set()
        seen = -1
        for page in pages:
            if page >> 9 * level == seen:
                continue
            seen = page >> 9 * level
            _, stop, _ = self.lookup(page)
            for absent in range(level, stop):
                missing.add((absent, page >> 9 * absent))
        return len(missing)

    def slot(self, page: int, level: int) -> int:
        """Host physical address of the entry of `level` for `page`; missing tables on the way come from the pool."""
        at = self.top
        table = self.root
        while True:
            address = table + (page >> 9 * (at - 1) & 511) * 8
            if at == level:
                return address
            entry = self.host.read64(address)
            if not entry & RIGHTS:
                hfn = self.pool.take()
                if hfn < 0:
                    raise HostBug("a checked mapping found the pool empty")
                entry = hfn << PAGE_SHIFT | self.table_rights
                self.host.write64(address, entry)
            elif entry & LARGE:
                raise HostBug(f"page {page:#x} lies in a large leaf")
            table = entry & ADDRESS
            at -= 1

    def trim(self, page: int) -> None:
        """Give the tables on the way to `page` that hold no present entry back to the pool."""
        path = []
        table = self.root
        for level in range(self.top, 1, -1):
            address = table + (page >> 9 * (level - 1) & 511) * 8
            entry = self.host.read64(address)
            if not is_table(entry, level):
                break
            path.append(address)
            table = entry & ADDRESS
        while path and self._is_empty(table, page >> 9 * (self.top - len(path) - 1)):
            address = path.pop()
            self.host.write64(address, 0)
            self.flush_tables(page)
            self.pool.put(table >> PAGE_SHIFT)
            table = address & ~(PAGE_SIZE - 1)

    def flush_tables(self, page: int) -> None:
        """A table on the way to `page` was taken out of the tree: let no cache of table entries name it."""
        raise NotImplementedError

    def _is_empty(self, table: int, index: int) -> bool:
        # The neighbour decides nearly always: ranges are unmapped upwards.
        if self.host.read64(table + (index + 1 & 511) * 8):
            return False
        return self.host.read(table, PAGE_SIZE) == _EMPTY_PAGE
