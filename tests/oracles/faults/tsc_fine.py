"""RDTSC tells every cycle, in which the cost of the host's own work shows."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import guest_clock

ORIGINAL = guest_clock.read_clock


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    return hv.machine.clock.cycles


BUG = Bug(
    name="tsc-fine",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:read_clock",
    replacement=replacement,
    findings=("exits/registers/rdtsc",),
    trigger="""\
# hvp 1
world pair
rdtsc(dom1)
""",
)
