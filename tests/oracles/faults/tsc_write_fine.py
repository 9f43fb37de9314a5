"""A write of the time-stamp counter takes the clock to the cycle, which a read then shows."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, value):
    vcpu.vmcs.tsc_offset = value - hv.machine.clock.cycles & (1 << 64) - 1


BUG = Bug(
    name="tsc-write-fine",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:write_counter",
    replacement=replacement,
    findings=("exits/control/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=TSC, value=0)
rdtsc(dom1)
""",
)
