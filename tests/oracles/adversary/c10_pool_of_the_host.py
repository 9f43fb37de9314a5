"""`discovery.limits` answers with the free frames of the machine where it should tell the caller's own pool.

A counter of the whole host in place of a domain's: each guest follows, page by page, how the others allocate and free.

In the trigger dom1 asks before and after dom2 has populated 3 pages.
"""

from hvfuzz.abi.limits import LIMITS
from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused


def check(self, hv, caller, vcpu):
    """Answer with constants, or with the free frames."""
    if self.what >= len(LIMITS):
        return Refused(Status.INVALID, "no such limit")
    value = LIMITS[self.what].value
    return Effect((), hv.allocator.available if value is None else value)


BUG = Bug(
    name="c10-pool-of-the-host",
    title="a limit tells how many frames of the machine are free",
    replaces="hvfuzz.hypervisor.hypercalls.discovery:Limits.check",
    replacement=check,
    findings=("specification/result/discovery.limits",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
discovery.limits(dom1, what=POOL)
memory.populate(dom2, first=0x100, count=3, order=0)
discovery.limits(dom1, what=POOL)
""",
)
