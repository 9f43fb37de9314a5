"""No flush where a merge has flushed... of the last page."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import stage2


def replacement(self, first, count, rights):
    cut = self.blocks_cut(first, count, rights)
    if len(cut) > len(self.pool.pages):
        return False
    for gfn in cut:
        self.split(gfn)
    self.walk(first, count, stage2._Protection(self, first, first + count, rights))
    return True


BUG = Bug(
    name="merge-no-flush-other",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.protect",
    replacement=replacement,
    findings=("stale/tlb/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
store(dom1, gva=DIRECT+0x200000, size=8, value=1)
memory.protect(dom1, first=0x200, count=512, rights=R)
""",
)
