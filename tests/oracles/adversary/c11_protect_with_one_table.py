"""`memory.protect` checks that the pool has a table page, and not that it has as many as it needs.

A range over the border of two large pages splits both. With one page in the pool the check passes, and the second
split fails in the middle of the call: the hypervisor stops, by a guest's doing. (Without the assertion, the rights of
all 512 pages of the second large page would change, beyond the range.)

In the trigger device mappings use up the pool, except for one page.
"""

from hvfuzz.abi.limits import RANGE
from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.memory.protect import PAGE_RIGHTS
from hvfuzz.hypervisor.memory.page_checks import BAD_RANGE, POOL_TOO_SMALL, page_refusal, range_ok


def check(self, hv, caller, vcpu):
    """The checks, with a wrong one of the pool."""
    if not range_ok(self.first, self.count, RANGE):
        return BAD_RANGE
    if self.rights not in PAGE_RIGHTS:
        return Refused(Status.INVALID, "rights")
    for gfn, entry, level in caller.stage2.leaves(self.first, self.count):
        refused = page_refusal(hv, caller, gfn, entry, level)
        if refused is not None:
            return refused
    if caller.stage2.blocks_cut(self.first, self.count, self.rights) and not caller.pool:
        return POOL_TOO_SMALL
    return Effect(self._steps(caller), self.count)


BUG = Bug(
    name="c11-protect-with-one-table",
    title="a protection that splits two large pages with one table page left stops the host",
    replaces="hvfuzz.hypervisor.hypercalls.memory.protect:Protect.check",
    replacement=check,
    findings=("host_memory/exception:HostBug/memory.protect",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=2, order=9)
"""
    + "".join(f"device.dma_map(dom1, iova={gib << 30:#x}, gfn=0x40, count=1, rights=R|W)\n" for gib in range(7))
    + """\
device.dma_map(dom1, iova=0x200000, gfn=0x40, count=1, rights=R|W)
discovery.limits(dom1, what=POOL)
memory.protect(dom1, first=0x3ff, count=2, rights=R)
load(dom1, gva=DIRECT+0x500000, size=8)
""",
)
