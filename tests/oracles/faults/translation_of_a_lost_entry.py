"""Guest-physical translations are flushed only if a linear one leads to their page: that one may be lost before."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self):
    machine = self.host.machine
    machine.clock.cycles += 200
    tlb = machine.tlb
    tlb.structures.invept(self.root)
    for key in [key for key in tlb.combined if key[2] == self.root]:
        tlb.guest_physical.pop((self.root, tlb.combined[key][5] >> PAGE_SHIFT), None)
        del tlb.combined[key]


BUG = Bug(
    name="translation-of-a-lost-entry",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush",
    replacement=replacement,
    findings=("stale/unflushed/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x200063)
load(dom1, gva=DIRECT+0x41000, size=8)
retain(dom1, cache=TLB, entry=255)
memory.decrease(dom1, first=0x200, count=1)
""",
)
