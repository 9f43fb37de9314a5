"""INVEPT is spared where no translation names the page; that a walk has cached where a table lies is forgotten."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import stage2
from hvfuzz.hypervisor.memory.table_tree import leaf_frame

ORIGINAL = stage2.Stage2.unmap


def replacement(self, gfn):
    entry, level, address = self.lookup(gfn)
    frame = leaf_frame(entry, level, gfn)
    tlb = self.host.machine.tlb
    named = [page[0] >> 12 for page in (*tlb.combined.values(), *tlb.guest_physical.values())]
    if level != 1 or frame in named:
        return ORIGINAL(self, gfn)
    self.host.write64(address, 0)
    self.frames.drop_map(frame)
    return True


BUG = Bug(
    name="unmap-unless-cached",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.unmap",
    replacement=replacement,
    findings=("stale/structure/memory.decrease",),
    trigger="""\
# hvp 1
world pair
tlb(dom1, capacity=4)
load(dom1, gva=0x401000, size=8)
load(dom1, gva=0x402000, size=8)
load(dom1, gva=0x403000, size=8)
load(dom1, gva=0x404000, size=8)
load(dom1, gva=0x405000, size=8)
memory.decrease(dom1, first=0x7, count=1)
""",
)
