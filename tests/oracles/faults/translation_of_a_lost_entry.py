"""A page is unmapped without INVEPT if no linear address leads to it: its guest-physical translation stays."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.hypervisor.memory.table_tree import leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT

unmap = Stage2.unmap


def replacement(self, gfn):
    cached = self.host.machine.tlb.combined.items()
    entry, level, address = self.lookup(gfn)
    if level > 1 or any(key[2] == self.root and found[5] >> PAGE_SHIFT == gfn for key, found in cached):
        return unmap(self, gfn)
    self.host.write64(address, 0)
    self.frames.drop_map(leaf_frame(entry, level, gfn))
    self.trim(gfn, address)
    return True


BUG = Bug(
    name="translation-of-a-lost-entry",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.unmap",
    replacement=replacement,
    findings=("stale/tlb/memory.decrease",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x41000, size=8)
evict(dom1, cache=TLB, entry=5)
memory.decrease(dom1, first=0x41, count=1)
""",
)
