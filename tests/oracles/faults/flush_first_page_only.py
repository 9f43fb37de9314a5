"""Only the combined entry of the first page is flushed."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import stage2


def replacement(self, hv):
    s2 = hv.domains[self.domain].stage2
    cut = s2.blocks_cut(self.first, self.pages, self.rights)
    for gfn in cut:
        s2.split(gfn)
    s2.walk(self.first, self.pages, stage2._Protection(s2, self.first, self.first + self.pages, self.rights))
    tlb = hv.machine.tlb
    for key in [k for k, e in tlb.combined.items() if k[2] == s2.root and e[5] >> 12 == self.first]:
        del tlb.combined[key]


BUG = Bug(
    name="flush-first-page-only",
    replaces="hvfuzz.hypervisor.hypercalls.memory.protect:ProtectRange.apply",
    replacement=replacement,
    findings=("stale/tlb/memory.protect",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x40000, size=8)
memory.protect(dom1, first=0x40, count=1, rights=R)
""",
)
