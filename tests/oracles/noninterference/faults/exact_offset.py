"""A write of the counter takes the exact clock for its offset, so that the next read shows the low bits."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import U64


def write_counter(hv, vcpu, value):
    """Set the counter from the exact clock."""
    vcpu.vmcs.tsc_offset = value - hv.machine.clock.cycles & U64


BUG = Bug(
    name="exact-offset",
    title="an offset of the counter holds the low bits of the clock",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:write_counter",
    replacement=write_counter,
    findings=("noninterference/result/rdtsc",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=TSC, value=0)
rdtsc(dom1)
""",
)
