"""Radix trees of table pages: the common part of EPT and VT-d second-level tables.

A page number is a guest frame number (EPT) or an I/O virtual address shifted right by 12 (VT-d). Level 1 entries map
4 KiB, level 2 entries 2 MiB or a table of level 1, and so on up to the root's level. The low rights bits, the large
bit 7 and the address field are the same in both formats (SDM Vol. 3C 29.3.2, VT-d spec 9.8). Both ignore bit 53, which
marks a leaf that names another domain's frame.

Invariant: every table page other than the root holds at least one present entry; empty ones return to the pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Protocol

from hvfuzz.hypervisor.core.host import HostBug, HostFault, HostMemory
from hvfuzz.hypervisor.memory.frames import FrameTable
from hvfuzz.hypervisor.memory.table_pool import TablePool
from hvfuzz.machine.addresses import ENTRY_ADDRESS, PAGE_SHIFT, PAGE_SIZE

READ = 1
WRITE = 2
EXECUTE = 4
RIGHTS = 7
LARGE = 1 << 7
FOREIGN = 1 << 53
"""Software bit of a leaf that a grant mapping made: the frame belongs to another domain."""
ADDRESS = ENTRY_ADDRESS
ENTRIES = 512
BLOCK_LEVEL = 2
BLOCK_PAGES = 512

_EMPTY_PAGE = bytes(PAGE_SIZE)
_WORDS = tuple(Struct(f"<{count}Q") for count in range(ENTRIES + 1))


def unpack_words(data: bytes) -> tuple[int, ...]:
    """Unpack whole 8-byte entries of a table."""
    return _WORDS[len(data) >> 3].unpack(data)


def is_table(entry: int, level: int) -> bool:
    """Whether `entry`, read at `level`, points to a table of the next lower level."""
    return level > 1 and entry & RIGHTS != 0 and not entry & LARGE


def leaf_frame(entry: int, level: int, page: int) -> int:
    """Host frame to which the present leaf `entry` of `level` maps `page`."""
    frame = (entry & ADDRESS) >> PAGE_SHIFT
    return frame + (page & BLOCK_PAGES - 1) if level == BLOCK_LEVEL else frame


class Visitor(Protocol):
    """Callbacks of `TableTree.walk`, for each entry of its range."""

    def table(self, page: int, level: int, entry: int, address: int) -> None:
        """Called before the walk descends into `entry`. The visitor may replace it; the walk then reads it again."""

    def leaf(self, page: int, level: int, entry: int, address: int) -> None:
        """Called for a present leaf, or an absent entry, of any level; `page` is its first page within the range."""


class TableTree:
    """A tree of tables: lookup, walk, and allocation and trimming of table pages."""

    __slots__ = ("frames", "host", "pool", "root", "top")

    table_rights = RIGHTS

    def __init__(self, host: HostMemory, frames: FrameTable, pool: TablePool, root: int, top: int) -> None:
        self.host = host
        self.frames = frames
        self.pool = pool
        self.root = root
        self.top = top

    def lookup(self, page: int) -> tuple[int, int, int]:
        """Walk to the entry for `page`; returns (entry, level, host physical address of the entry).

        The entry is a present leaf, or absent (no rights), at any level.
        """
        host = self.host
        level = self.top
        shift = 9 * (level - 1)
        if page >> shift + 9:
            raise HostFault(f"page {page:#x} lies beyond the tables")
        # `host.read64`, inlined: this is the most frequent operation of host context.
        words, on_access, work = host.words, host.on_access, host.work
        address = self.root + (page >> shift & 511) * 8
        try:
            while True:
                work.units += 1
                if on_access is not None:
                    on_access(address, 8, False)
                entry: int = words[address >> 3]
                if level == 1 or not entry & RIGHTS or entry & LARGE:
                    return entry, level, address
                level -= 1
                shift -= 9
                address = (entry & ADDRESS) + (page >> shift & 511) * 8
        except IndexError:
            raise HostFault(f"table entry read at {address:#x}") from None

    def leaves(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (page, entry, level) of each page of the range, in order. Reads a whole table at a time."""
        for page, after, level, entries in self.runs(first, count):
            if level > 1:
                entry = entries[0]
                for each in range(page, after):
                    yield each, entry, level
            else:
                for each, entry in enumerate(entries, page):
                    yield each, entry, level

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int, int, Sequence[int]]]:
        """Yield (page, page after, level, entries) of each part of the range that lies in one table, in order.

        If the walk ends above level 1, a single entry covers the whole part.
        """
        page, end = first, first + count
        while page < end:
            entry, level, address = self.lookup(page)
            if level > 1:
                shift = 9 * (level - 1)
                after = min((page >> shift) + 1 << shift, end)
                yield page, after, level, (entry,)
            else:
                after = min((page & -ENTRIES) + ENTRIES, end)
                yield page, after, level, unpack_words(self.host.read(address, 8 * (after - page)))
            page = after

    def walk(self, first: int, count: int, visitor: Visitor) -> None:
        """Call `visitor` for each entry that covers the pages `first` .. `first + count - 1`, in order."""
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
        """Reread the entry at `address` after the visitor saw `seen` there: it may have freed the table under it."""
        return self.host.read64(address)

    def tables_needed(self, pages: Iterable[int], level: int = 1) -> int:
        """Number of table pages that mapping all of `pages` by leaves of `level` would take from the pool."""
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
        """Host physical address of the entry of `level` for `page`; takes missing tables from the pool."""
        host = self.host
        words, on_access, work = host.words, host.on_access, host.work
        at = self.top
        table = self.root
        while True:
            address = table + (page >> 9 * (at - 1) & 511) * 8
            if at == level:
                return address
            work.units += 1  # `host.read64`, inlined as in `lookup`
            if on_access is not None:
                on_access(address, 8, False)
            try:
                entry: int = words[address >> 3]
            except IndexError:
                raise HostFault(f"word read at {address:#x}") from None
            if not entry & RIGHTS:
                hfn = self.pool.take()
                if hfn < 0:
                    raise HostBug("pool empty in a checked mapping")
                entry = hfn << PAGE_SHIFT | self.table_rights
                host.write64(address, entry)
            elif entry & LARGE:
                raise HostBug(f"page {page:#x} lies in a large leaf")
            table = entry & ADDRESS
            at -= 1

    def trim(self, page: int, address: int) -> None:
        """Return the tables on the path to `page` that hold no present entry to the pool.

        `address` is the host physical address of the entry that was just cleared.
        """
        # Ranges are unmapped upwards, so the next entry nearly always shows that the table is in use.
        base = address & -PAGE_SIZE
        if self.host.read64(base | (address + 8) & PAGE_SIZE - 1):
            return
        path = []
        table = self.root
        for level in range(self.top, 1, -1):
            parent = table + (page >> 9 * (level - 1) & 511) * 8
            entry = self.host.read64(parent)
            if not is_table(entry, level):
                break
            path.append(parent)
            table = entry & ADDRESS
        while path and self.host.read(table, PAGE_SIZE) == _EMPTY_PAGE:
            parent = path.pop()
            self.host.write64(parent, 0)
            # Flush before the page is reused: walkers may have cached its address (SDM Vol. 3C, 29.4.2).
            self.flush_tables(page)
            self.pool.put(table >> PAGE_SHIFT)
            table = parent & -PAGE_SIZE

    def flush_tables(self, page: int) -> None:
        """Drop cached table entries on the path to `page`, after a table was removed from the tree."""
        raise NotImplementedError
