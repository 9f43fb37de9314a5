"""A clock read beyond the quota waits for the next grain instead of for the next window.

The wrong constant: a guest reads its counter in each grain, four times as often as the contract allows, and each read
ends just when the grain begins, so that it is synchronised with the edge. What it does between two reads it can then
time exactly, by counting: the clock is as fine as if it were not rounded, and shows how long the host and the other
domains work.

In the trigger dom1 reads its counter ten times, all within one window.
"""

from hvfuzz.abi.limits import CLOCK_GRAIN, CLOCK_READS, CLOCK_WINDOW
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.guest_clock import quantised, reads_in


def read_clock(hv, vcpu):
    """Read the clock, after a wait for the next grain if the quota is used up."""
    domain = hv.domains[vcpu.domain]
    window = hv.machine.clock.cycles // CLOCK_WINDOW
    reads = reads_in(domain, window)
    if reads >= CLOCK_READS:
        hv.scheduler.sleep(CLOCK_GRAIN - hv.machine.clock.cycles % CLOCK_GRAIN)
    else:
        domain.clock_reads = reads + 1
        domain.clock_window = window
    return quantised(hv.machine.clock.cycles)


BUG = Bug(
    name="c10-waits-for-a-grain",
    title="a guest reads its counter in each grain, at its edge",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:read_clock",
    replacement=read_clock,
    findings=("exits/registers/rdtsc",),
    story=__doc__,
    trigger="# hvp 1\nworld pair\n" + "rdtsc(dom1)\n" * 10,
)
