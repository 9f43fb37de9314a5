"""Device mappings that a grant made are not flushed when they go.

The flush is taken for the domain's own pages only. When a grant is unmapped and revoked, and its owner gives up the
page, the mapper's device goes on by the IOTLB: it reads and writes a frame that belongs to a third domain by then.

In the trigger dom1's engine has used a page of dom2, which takes it back; the engine still writes to it.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, RIGHTS, leaf_frame


def release(self, page, displaced):
    """Flush what is the domain's own, and drop the reference."""
    was_present = displaced & RIGHTS != 0
    if not displaced & FOREIGN:
        self.flush(page, 1, was_present)
    if was_present:
        hfn = leaf_frame(displaced, 1, page)
        if hfn < self.frames.count:
            self.frames.drop_map(hfn)


BUG = Bug(
    name="c08-foreign-dma-not-flushed",
    title="a device keeps its access to a page whose loan is over",
    replaces="hvfuzz.hypervisor.memory.dma:DmaMap.release",
    replacement=release,
    story=__doc__,
    findings=("stale/iotlb/grant.unmap",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
r1 = grant.create(dom2, gfn=0x40, to=dom1, rights=R|W)
r2 = grant.map(dom1, granter=dom2, ref=r1, gfn=0, iova=0x2000, flags=DEVICE)
device.dma_submit(dom1, device=0, from=0x1000, to=0x2000, length=8)
grant.unmap(dom1, handle=r2, count=1, flags=DEVICE)
grant.revoke(dom2, ref=r1)
store(dom1, gva=DIRECT+0x40000, size=8, value=0x666)
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1000)
mmio_write(dom1, device=0, register=DST, size=8, value=0x2000)
mmio_write(dom1, device=0, register=LENGTH, size=8, value=8)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
load(dom2, gva=DIRECT+0x40000, size=8)
""",
)
