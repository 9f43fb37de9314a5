"""RDTSC tells every cycle, in which the cost of the host's own work shows."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor import tsc

ORIGINAL = tsc.read_clock


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    return hv.machine.clock.cycles


BUG = Bug(
    name="tsc-fine",
    replaces="hvfuzz.hypervisor.tsc:read_clock",
    replacement=replacement,
    findings=("exits/registers/rdtsc",),
    trigger="""\
# hvp 1
world pair
rdtsc(dom1)
""",
)
