"""Setting the time-stamp counter sets that of the domain's first vCPU."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, value):
    first = hv.domains[vcpu.domain].vcpus[0]
    first.vmcs.tsc_offset = value - hv.machine.clock.cycles // 4096 * 4096 & (1 << 64) - 1


BUG = Bug(
    name="tsc-offset-of-other",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:write_counter",
    replacement=replacement,
    findings=("principal/state/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1.1, index=TSC, value=0x100000)
""",
)
