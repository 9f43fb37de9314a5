"""A page is flushed before its entry is cleared: a load in between caches it again, and the frame is freed.

In the trigger the other vCPU of the domain loads from the page just before its entry is cleared.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory.table_tree import RIGHTS, leaf_frame


def unmap(self, gfn):
    entry, level, address = self.lookup(gfn)
    if not entry & RIGHTS:
        raise HostBug(f"gfn {gfn:#x} is not mapped")
    if level > 1:
        if not self.split(gfn):
            return False
        entry, level, address = self.lookup(gfn)
    self.flush()
    self.host.write64(address, 0)
    self.frames.drop_map(leaf_frame(entry, level, gfn))
    self.trim(gfn, address)
    return True


BUG = Bug(
    name="raced-flushed-before-cleared",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.unmap",
    replacement=unmap,
    findings=("stale/tlb/memory.decrease",),
    trigger="""\
# hvp 1
world pair
race before write 0: load(dom1.1, gva=DIRECT+0x60000, size=8)
memory.decrease(dom1, first=0x60, count=1)
""",
)
