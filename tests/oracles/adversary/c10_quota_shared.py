"""The quota of clock reads is shared by all domains.

It should protect the domains from each other, and is a channel between them: each learns from AGAIN how often the
others have read the clock in this window. A guest can also use up the quota, so that nobody else can read the clock.

In the trigger dom2 reads four times; dom1's first read is refused.
"""

from hvfuzz.abi.limits import CLOCK_READS, CLOCK_WINDOW
from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.time import CountRead
from hvfuzz.hypervisor.vcpu.guest_clock import quantised, reads_in


def check(self, hv, caller, vcpu):
    """Refuse if the machine's reads of this window are used up."""
    now = hv.machine.clock.cycles
    window = now // CLOCK_WINDOW
    if sum(reads_in(domain, window) for domain in hv.domains) >= CLOCK_READS:
        return Refused(Status.AGAIN, "clock read too often")
    return Effect((CountRead(caller.id, window, reads_in(caller, window) + 1),), quantised(now))


BUG = Bug(
    name="c10-quota-shared",
    title="a clock read is refused if other domains have read the clock",
    replaces="hvfuzz.hypervisor.hypercalls.time:ClockRead.check",
    replacement=check,
    findings=("specification/status/time.clock_read",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
time.clock_read(dom2)
time.clock_read(dom2)
time.clock_read(dom2)
time.clock_read(dom2)
time.clock_read(dom1)
""",
)
