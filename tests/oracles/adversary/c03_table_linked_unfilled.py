"""A new table page is linked into the tables before it is cleared.

Until it is cleared, hardware walks what the page held before: the pool's poison, or, in a pool that does not poison,
an old table with leaves of frames that have gone to others. With the poison a walk hits reserved bits, and the host
dies of a misconfiguration that the guest caused.

In the trigger a page is populated, and one mapped for devices, where each needs new tables.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import ADDRESS, LARGE, RIGHTS
from hvfuzz.machine.addresses import PAGE_SHIFT


def slot(self, page, level):
    """The entry of `level`; missing tables are linked, then cleared."""
    host = self.host
    table = self.root
    for at in range(self.top, level, -1):
        address = table + (page >> 9 * (at - 1) & 511) * 8
        entry = host.read64(address)
        if not entry & RIGHTS:
            pool = self.pool
            if not pool.pages:
                raise HostBug("pool empty in a checked mapping")
            hfn = pool.pages.pop()
            pool.frames.assign(hfn, pool.owner, FrameState.TABLE)
            host.observer.frame_allocated(hfn, pool.owner, FrameState.TABLE)
            entry = hfn << PAGE_SHIFT | self.table_rights
            host.write64(address, entry)
            host.fill(hfn)
        elif entry & LARGE:
            raise HostBug(f"page {page:#x} lies in a large leaf")
        table = entry & ADDRESS
    return table + (page >> 9 * (level - 1) & 511) * 8


BUG = Bug(
    name="c03-table-linked-unfilled",
    title="hardware walks a new table page before it is cleared",
    replaces="hvfuzz.hypervisor.memory.table_tree:TableTree.slot",
    replacement=slot,
    story=__doc__,
    findings=("ownership/moment/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R|W)
""",
)
