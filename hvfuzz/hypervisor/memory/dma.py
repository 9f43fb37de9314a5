"""DMA remapping: per-domain VT-d second-level tables, and the context entries that assign devices to domains.

Legacy mode (VT-d spec 3.4, 9.1, 9.3, 9.8): three levels, 39 bits of I/O virtual address, domain id = domain + 1.
Pages here are I/O virtual addresses shifted right by 12.
"""

from __future__ import annotations

from hvfuzz.hypervisor.core.host import HostBug, HostFault, HostMemory
from hvfuzz.hypervisor.memory.frames import FrameTable
from hvfuzz.hypervisor.memory.table_pool import TablePool
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, READ, RIGHTS, WRITE, TableTree, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.vtd import legacy_mode
from hvfuzz.machine.vtd.legacy_mode import DID_MASK, DID_SHIFT, ENTRY_SIZE, PRESENT

LEVELS = 3


class DmaMap(TableTree):
    """Second-level tables of one domain. Mapping and unmapping update the `maps` count of the frames.

    Device registers can be mapped, too: they lie above the frames of memory, and their mappings are not counted.
    """

    __slots__ = ("domain_id",)

    table_rights = READ | WRITE

    def __init__(self, host: HostMemory, frames: FrameTable, pool: TablePool, root: int, domain_id: int) -> None:
        super().__init__(host, frames, pool, root, LEVELS)
        self.domain_id = domain_id

    def map(self, page: int, hfn: int, rights: int, *, foreign: bool = False) -> None:
        """Map `page` to `hfn` with `rights` (R, W, RW), replacing any present leaf.

        A displaced leaf is flushed before its reference is dropped. The pool must have the tables, which the
        check has established (`tables_needed`).
        """
        address = self.slot(page, 1)
        displaced = self.host.read64(address)
        if hfn < self.frames.count:
            self.frames.add_map(hfn)
        self.host.write64(address, hfn << PAGE_SHIFT | rights | (FOREIGN if foreign else 0))
        self.release(page, displaced)

    def unmap(self, page: int) -> None:
        """Unmap `page`, flush, and drop one mapping of its frame."""
        entry, _, address = self.lookup(page)
        if not entry & RIGHTS:
            raise HostBug(f"device page {page:#x} is not mapped")
        self.host.write64(address, 0)
        self.release(page, entry)
        self.trim(page, address)

    def release(self, page: int, displaced: int) -> None:
        """Flush the removed leaf `displaced` of `page`, and only then drop its reference.

        In the other order, a device could still reach the frame after it is freed and reallocated.
        """
        was_present = displaced & RIGHTS != 0
        self.flush(page, 1, was_present)
        if was_present:
            hfn = leaf_frame(displaced, 1, page)
            if hfn < self.frames.count:
                self.frames.drop_map(hfn)

    def flush_tables(self, page: int) -> None:
        """Drop cached leaf and table entries of `page` (VT-d spec 6.5.1.2: invalidation hint clear)."""
        self.flush(page, 1, True)

    def flush(self, page: int, count: int, was_present: bool) -> None:
        """Drop cached translations of `count` pages, if they were present."""
        # VT-d spec 6.1: with caching mode clear, absent entries are never cached.
        if not was_present:
            return
        iommu = self.host.machine.iommu
        for cached in range(page, page + count):
            iommu.invalidate_iotlb(self.domain_id, cached << PAGE_SHIFT)


class ContextTables:
    """Root table and one context table for each PCI bus: they assign devices to domains (VT-d spec 9.1, 9.3).

    `root` and the values of `buses` (bus number to context table) are host physical addresses of zeroed pages.
    """

    __slots__ = ("buses", "host", "root")

    def __init__(self, host: HostMemory, root: int, buses: dict[int, int]) -> None:
        self.host = host
        self.root = root
        self.buses = buses
        for bus, table in buses.items():
            host.write64(root + bus * ENTRY_SIZE, legacy_mode.root_entry(table))

    def domain_of(self, bdf: int) -> int:
        """The number of the domain that the device is assigned to, or -1."""
        address = self._entry(bdf)
        if not self.host.read64(address) & PRESENT:
            return -1
        return (self.host.read64(address + 8) >> DID_SHIFT & DID_MASK) - 1

    def attach(self, bdf: int, dma: DmaMap) -> None:
        """Assign the device to the domain of `dma`; the half with the present bit is written last."""
        address = self._entry(bdf)
        low, high = legacy_mode.context_entry(dma.domain_id, dma.root, LEVELS)
        self.host.write64(address + 8, high)
        self.host.write64(address, low)
        self.flush(bdf, dma.domain_id)

    def detach(self, bdf: int) -> None:
        """Clear the device's context entry: its requests are blocked from then on."""
        address = self._entry(bdf)
        domain_id = self.host.read64(address + 8) >> DID_SHIFT & DID_MASK
        self.host.write64(address, 0)
        self.host.write64(address + 8, 0)
        self.flush(bdf, domain_id)

    def flush(self, bdf: int, domain_id: int) -> None:
        """Drop the device's cached context entry, then translations of the domain id (VT-d spec 6.5.1.1, 6.5.1.2)."""
        iommu = self.host.machine.iommu
        iommu.invalidate_context(bdf)
        iommu.invalidate_iotlb(domain_id)

    def _entry(self, bdf: int) -> int:
        table = self.buses.get(bdf >> 8)
        if table is None:
            raise HostFault(f"no context table for device {bdf:#x}")
        return table + (bdf & 0xFF) * ENTRY_SIZE
