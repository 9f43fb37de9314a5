"""No INVEPT if the TLB holds no translation of the domain: the paging-structure caches may still name its tables."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.stage2 import Stage2

flush = Stage2.flush


def replacement(self):
    tlb = self.host.machine.tlb
    if any(key[2] == self.root for key in tlb.combined) or any(key[0] == self.root for key in tlb.guest_physical):
        flush(self)


BUG = Bug(
    name="tables-kept-without-translations",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush",
    replacement=replacement,
    findings=("stale/unflushed/memory.decrease",),
    trigger="""\
# hvp 1
world pair
load(dom2, gva=DIRECT+0x41000, size=8)
memory.populate(dom1, first=0x200, count=1, order=0)
pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x200063)
load(dom1, gva=DIRECT+0x41000, size=8)
retain(dom1, cache=TLB, entry=0)
memory.decrease(dom1, first=0x200, count=1)
""",
)
