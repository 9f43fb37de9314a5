"""A clock read that waits for the next window takes the waiting time from the counters of all other vCPUs.

"They did not run, so they need not notice": the TSC offset of every other vCPU of the machine is reduced. A guest sets
back the clocks of the others as often as it likes. Time goes backwards there; what relies on it (leases, random seeds,
deadlines of a protocol) breaks (cf. KVM's old synchronisation of TSC writes, which touched other vCPUs' offsets).

In the trigger dom1 reads its counter five times; dom2's counter has gone back.
"""

from hvfuzz.abi.limits import CLOCK_READS, CLOCK_WINDOW
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.guest_clock import quantised, reads_in
from hvfuzz.machine.addresses import U64


def read_clock(hv, vcpu):
    """Read the clock; hide a wait from the others."""
    domain = hv.domains[vcpu.domain]
    window, passed = divmod(hv.machine.clock.cycles, CLOCK_WINDOW)
    if reads_in(domain, window) >= CLOCK_READS:
        wait = CLOCK_WINDOW - passed
        hv.scheduler.sleep(wait)
        for other in hv.machine.vcpus:
            if other is not vcpu:
                other.vmcs.tsc_offset = other.vmcs.tsc_offset - wait & U64
        window += 1
    domain.clock_reads = reads_in(domain, window) + 1
    domain.clock_window = window
    return quantised(hv.machine.clock.cycles)


BUG = Bug(
    name="c05-wait-shifts-offsets",
    title="a clock read that waits changes the TSC offsets of all other vCPUs",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:read_clock",
    replacement=read_clock,
    findings=("principal/state/rdtsc",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
rdtsc(dom1)
rdtsc(dom1)
rdtsc(dom1)
rdtsc(dom1)
rdtsc(dom1)
rdtsc(dom2)
""",
)
