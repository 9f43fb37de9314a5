"""A gfn may be listed twice."""

from hvfuzz.abi.limits import MAX_GFN
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import page_checks


def replacement(self, hv, caller, gfns):
    for gfn in gfns:
        if gfn >= MAX_GFN:
            return page_checks.BAD_RANGE
        entry, level, _ = caller.stage2.lookup(gfn)
        r = page_checks.release_refusal(hv, caller, gfn, entry, level)
        if r is not None:
            return r
    return None


BUG = Bug(
    name="duplicate-gfns",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:Exchange._refusal",
    replacement=replacement,
    findings=("host_memory/exception:HostBug/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.exchange(dom1, gfns=[0x60, 0x60], out=[0, 0], count=2, start=0)
""",
)
