"""Freed and announced, then unmapped, in one step, with the TLB filled."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    s2 = hv.domains[self.domain].stage2
    hv.allocator.scrub(self.hfn, 1)
    hv.allocator._release(self.hfn, 1)
    _e, _level, a = s2.lookup(self.gfn)
    hv.host.write64(a, 0)
    s2.flush()
    s2.trim(self.gfn, a)


BUG = Bug(
    name="freed-while-mapped-other",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:RemovePage.apply",
    replacement=replacement,
    findings=("stale/leaf/memory.decrease",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x60000, size=8)
memory.decrease(dom1, first=0x60, count=1)
""",
)
