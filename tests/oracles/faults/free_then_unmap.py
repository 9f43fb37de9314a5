"""The frame is freed before it is unmapped."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    hv.allocator.scrub(self.hfn, 1)
    hv.allocator._release(self.hfn, 1)
    s2 = hv.domains[self.domain].stage2
    _e, _level, a = s2.lookup(self.gfn)
    hv.host.write64(a, 0)
    s2.flush()
    s2.trim(self.gfn, a)


BUG = Bug(
    name="free-then-unmap",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:RemovePage.apply",
    replacement=replacement,
    findings=("stale/leaf/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x60, count=1)
""",
)
