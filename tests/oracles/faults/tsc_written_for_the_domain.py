"""Setting the time-stamp counter of one vCPU sets that of every vCPU of its domain."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, value):
    for each in hv.domains[vcpu.domain].vcpus:
        each.vmcs.tsc_offset = value - hv.machine.clock.cycles // 4096 * 4096 & (1 << 64) - 1


BUG = Bug(
    name="tsc-written-for-the-domain",
    replaces="hvfuzz.hypervisor.vcpu.guest_clock:write_counter",
    replacement=replacement,
    findings=("principal/state/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=TSC, value=0x100000)
rdtsc(dom1.1)
""",
)
