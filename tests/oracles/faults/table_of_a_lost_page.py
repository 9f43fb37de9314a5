"""A page is unmapped without INVEPT if the TLB does not lead to it: it may still be walked as a guest table."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.hypervisor.memory.table_tree import leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT

unmap = Stage2.unmap


def replacement(self, gfn):
    tlb = self.host.machine.tlb
    linear = any(key[2] == self.root and entry[5] >> PAGE_SHIFT == gfn for key, entry in tlb.combined.items())
    entry, level, address = self.lookup(gfn)
    if level > 1 or linear or (self.root, gfn) in tlb.guest_physical:
        return unmap(self, gfn)
    self.host.write64(address, 0)
    self.frames.drop_map(leaf_frame(entry, level, gfn))
    self.trim(gfn, address)
    return True


BUG = Bug(
    name="table-of-a-lost-page",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.unmap",
    replacement=replacement,
    findings=("stale/structure/memory.decrease",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x41008, size=8, value=0x42063)
pte(dom1, gva=DIRECT+0x400000, level=2, entry=0x41063)
load(dom1, gva=DIRECT+0x401000, size=8)
retain(dom1, cache=TLB, entry=0)
memory.decrease(dom1, first=0x41, count=1)
""",
)
