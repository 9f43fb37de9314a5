"""A long call flushes once in 64 pages, and frees each page at once."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug


def replacement(self, hv):
    stage2 = hv.domains[self.domain].stage2
    _, level, address = stage2.lookup(self.gfn)
    if level > 1:
        raise HostBug("a large page in the trigger")
    hv.host.write64(address, 0)
    if self.gfn % 64 == 63:
        stage2.flush()
    hv.frames.drop_map(self.hfn)
    hv.allocator.free_page(self.hfn)


BUG = Bug(
    name="flushed-by-quota",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:RemovePage.apply",
    replacement=replacement,
    findings=("stale/unflushed/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x40, count=64)
""",
)
