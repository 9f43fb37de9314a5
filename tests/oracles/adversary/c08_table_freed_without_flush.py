"""A table of stage 2 that became empty returns to the pool without a flush.

Processors cache the addresses of tables (SDM Vol. 3C, 29.4.2), and may walk ahead at any time, between the flush for
the leaf and the moment when the table is unlinked. A vCPU that still has the address walks a page that meanwhile is
something else: a table of the IOMMU, where the guest's devices are mapped. Xen's and KVM's rule is that a table page is
reused only after a flush.

In the trigger a page with a table of its own comes and goes. No cache holds anything of it.
"""

from hvfuzz.bugs import Bug


def flush_tables(self, page):
    """Nothing: the leaf has been flushed."""


BUG = Bug(
    name="c08-table-freed-without-flush",
    title="a page table is reused while processors may still have its address cached",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush_tables",
    replacement=flush_tables,
    story=__doc__,
    findings=("stale/unflushed/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
memory.decrease(dom1, first=0x200, count=1)
device.dma_map(dom1, iova=0x40000000, gfn=0x40, count=1, rights=R|W)
""",
)
