"""The last structure of the DMAR table is not read: the loop stops when it would end just at the end of the table.

The last structures are those of reserved memory. The allocator gives the region of such a device to guests: what the
firmware keeps there becomes a guest's, a guest's content is what the device, or the firmware behind it, works with, and
no domain that the device is assigned to maps it (VT-d spec 8.2, 8.4; XSA-378).

In the trigger dom2 gets both pages of the region by populating from the top of memory, and dom1's device cannot reach
them.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.machine.vtd import dmar


def structures(table):
    """The remapping structures, but the last."""
    at = dmar.HEADER.size
    while len(table) - at >= dmar.STRUCTURE.size:
        kind, size = dmar.STRUCTURE.unpack_from(table, at)
        if size < dmar.STRUCTURE.size or at + size > len(table):
            raise HostFault(f"DMAR table: structure of {size} bytes at offset {at}")
        if kind != dmar.DRHD_TYPE and at + size == len(table):
            return
        yield at, kind, table[at : at + size]
        at += size


BUG = Bug(
    name="c11-last-structure-left-out",
    title="the memory of the last RMRR structure is not reserved",
    replaces="hvfuzz.hypervisor.memory.rmrr:_structures",
    replacement=structures,
    findings=("specification/iova/boot",),
    story=__doc__,
    trigger="""\
# hvp 1
world reserved
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
memory.populate(dom2, first=0x100, count=2, order=0, flags=TOP_DOWN)
store(dom2, gva=DIRECT+0x100000, size=8, value=0x22)
device.dma_submit(dom1, device=1, from=0x1000, to=0xffe000, length=8)
load(dom2, gva=DIRECT+0x100000, size=8)
""",
)
