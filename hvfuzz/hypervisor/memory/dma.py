"""Device address translation: per-domain VT-d second-level tables, and the context entries that assign devices.

Legacy mode (VT-d spec 3.4, 9.1, 9.3, 9.8): three levels, 39 bits of I/O virtual address, domain id = domain + 1.
Pages here are I/O virtual addresses shifted right by 12.
"""

from __future__ import annotations

from hvfuzz.hypervisor.core.host import HostBug, HostFault, HostMemory
from hvfuzz.hypervisor.memory.frames import FrameTable
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, READ, RIGHTS, WRITE, TablePool, TableTree, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.vtd import legacy_mode
from hvfuzz.machine.vtd.legacy_mode import DID_MASK, DID_SHIFT, ENTRY_SIZE, PRESENT

LEVELS = 3


class DmaMap(TableTree):
    """What the devices of one domain reach. Mapping and unmapping keep the `maps` count of the frames.

    Registers of a device can be mapped as well: they lie beyond the frames of memory, and nobody counts them.
    """

    __slots__ = ("domain_id",)

    table_rights = READ | WRITE

    def __init__(self, host: HostMemory, frames: FrameTable, pool: TablePool, root: int, domain_id: int) -> None:
        super().__init__(host, frames, pool, root, LEVELS)
        self.domain_id = domain_id

    def map(self, page: int, hfn: int, rights: int, *, foreign: bool = False) -> None:
        """Map `page` to `hfn` with `rights` (R, W, RW), replacing the leaf that may be there.

        A displaced leaf is flushed before its reference is dropped. The check made sure of the tables.
        """
        address = self.slot(page, 1)
        displaced = self.host.read64(address)
        if hfn < self.frames.count:
            self.frames.add_map(hfn)
        self.host.write64(address, hfn << PAGE_SHIFT | rights | (FOREIGN if foreign else 0))
        self.release(page, displaced)

    def unmap(self, page: int) -> None:
        """Unmap `page`, flush, and count one mapping of its frame less."""
        entry, _, address = self.lookup(page)
        if not entry & RIGHTS:
            raise HostBug(f"device page {page:#x} is not mapped")
        self.host.write64(address, 0)
        self.release(page, entry)
        self.trim(page, address)

    def release(self, page: int, displaced: int) -> None:
        """The leaf `displaced` of `page` is gone from the tables: flush, and only then drop its reference."""
        was_present = displaced & RIGHTS != 0
        self.flush(page, 1, was_present)
        if was_present:
            hfn = leaf_frame(displaced, 1, page)
            if hfn < self.frames.count:
                self.frames.drop_map(hfn)

    def flush_tables(self, page: int) -> None:
        """Drop what is cached of `page`, table entries on the way included (invalidation hint clear)."""
        self.flush(page, 1, True)

    def flush(self, page: int, count: int, was_present: bool) -> None:
        """Drop cached translations of `count` pages; absent entries are never cached, so they need no flush."""
        if not was_present:
            return
        iommu = self.host.machine.iommu
        for cached in range(page, page + count):
            iommu.invalidate_iotlb(self.domain_id, cached << PAGE_SHIFT)


class ContextTables:
    """Root and context tables, one context table for each PCI bus: which domain each device belongs to.

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
        """The domain that the device is assigned to, or -1."""
        address = self._entry(bdf)
        if not self.host.read64(address) & PRESENT:
            return -1
        return (self.host.read64(address + 8) >> DID_SHIFT & DID_MASK) - 1

    def attach(self, bdf: int, dma: DmaMap) -> None:
        """Let the device translate through `dma`; the half with the present bit is written last."""
        address = self._entry(bdf)
        low, high = legacy_mode.context_entry(dma.domain_id, dma.root, LEVELS)
        self.host.write64(address + 8, high)
        self.host.write64(address, low)
        self.flush(bdf, dma.domain_id)

    def detach(self, bdf: int) -> None:
        """Take the device from its domain: from here on its requests are blocked."""
        address = self._entry(bdf)
        domain_id = self.host.read64(address + 8) >> DID_SHIFT & DID_MASK
        self.host.write64(address, 0)
        self.host.write64(address + 8, 0)
        self.flush(bdf, domain_id)

    def flush(self, bdf: int, domain_id: int) -> None:
        """Drop the cached context entry of the device, then the translations that were made under it."""
        iommu = self.host.machine.iommu
        iommu.invalidate_context(bdf)
        iommu.invalidate_iotlb(domain_id)

    def _entry(self, bdf: int) -> int:
        table = self.buses.get(bdf >> 8)
        if table is None:
            raise HostFault(f"no context table for device {bdf:#x}")
        return table + (bdf & 0xFF) * ENTRY_SIZE
