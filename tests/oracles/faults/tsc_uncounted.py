"""RDTSC is no read of the clock, so that it can be asked for the time at any moment."""

from hvfuzz.bugs import Bug

GRAIN = 4096


def replacement(hv, vcpu):
    return hv.machine.clock.cycles // GRAIN * GRAIN


BUG = Bug(
    name="tsc-uncounted",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:read_clock",
    replacement=replacement,
    findings=("specification/change/rdtsc",),
    trigger="""\
# hvp 1
world pair
rdtsc(dom1)
pause(dom1)
""",
)
