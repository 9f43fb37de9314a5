"""Calls of domain 2 take longer, for one table more is looked at."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.sched import YIELDED


def check(self, hv, caller, vcpu):
    """Charge domain 2 for a table walk."""
    if caller.id == 2:
        hv.machine.clock.cycles += 15
    return YIELDED


BUG = Bug(
    name="slow-for-one",
    title="a call takes longer in domain 2",
    replaces="hvfuzz.hypervisor.hypercalls.sched:Yield.check",
    replacement=check,
    findings=("laws/names/sched.yield",),
    story=__doc__,
    trigger="""\
# hvp 1
world bare
sched.yield(dom2)
""",
)
