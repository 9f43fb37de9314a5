"""Flushed before the entry is cleared: another vCPU can fill the TLB in between."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import leaf_frame


def replacement(self, gfn):
    entry, level, address = self.lookup(gfn)
    if level == 2:
        if not self.split(gfn):
            return False
        entry, level, address = self.lookup(gfn)
    self.flush()
    self.host.write64(address, 0)
    self.frames.drop_map(leaf_frame(entry, level, gfn))
    self.trim(gfn, address)
    return True


BUG = Bug(
    name="flush-before-write",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.unmap",
    replacement=replacement,
    findings=("stale/order/memory.decrease",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x40000, size=8)
load(dom1.1, gva=DIRECT+0x40000, size=8)
memory.decrease(dom1, first=0x40, count=1)
""",
)
