"""A clock read that has to wait for the next window waits for the one after it.

Off by one: the vCPU waits two windows less what has passed. While it waits, no other vCPU runs: a guest takes 65,536
cycles more from everybody with each read of its counter, and skips the deadlines of all others.

In the trigger dom1 reads its counter five times; then dom2 reads the clock.
"""

from hvfuzz.abi.limits import CLOCK_READS, CLOCK_WINDOW
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.guest_clock import quantised, reads_in


def read_clock(hv, vcpu):
    """Read the clock, after a wait of a window too many."""
    domain = hv.domains[vcpu.domain]
    window, passed = divmod(hv.machine.clock.cycles, CLOCK_WINDOW)
    if reads_in(domain, window) >= CLOCK_READS:
        window += 2
        hv.scheduler.sleep(2 * CLOCK_WINDOW - passed)
    domain.clock_reads = reads_in(domain, window) + 1
    domain.clock_window = window
    return quantised(hv.machine.clock.cycles)


BUG = Bug(
    name="c07-waits-a-window-longer",
    title="a clock read beyond the quota stops the machine for a whole window more",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:read_clock",
    replacement=read_clock,
    findings=("exits/registers/rdtsc",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
rdtsc(dom1)
rdtsc(dom1)
rdtsc(dom1)
rdtsc(dom1)
rdtsc(dom1)
time.clock_read(dom2)
""",
)
