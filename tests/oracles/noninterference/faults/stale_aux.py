"""RDTSCP returns in ECX the TSC_AUX of the vCPU that ran before, since it is loaded only if it was written."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import MSRS, step_over
from hvfuzz.hypervisor.vcpu import guest_clock
from hvfuzz.machine.cpu.msrs import TSC_AUX
from hvfuzz.machine.cpu.registers import RAX, RCX, RDX
from hvfuzz.machine.cpu.vmcs import ExitReason


def time_stamp(hv, vcpu):
    """RDTSC and RDTSCP."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    value = guest_clock.read_counter(hv, vcpu)
    saved[RAX], saved[RDX] = value & 0xFFFF_FFFF, value >> 32
    if vmcs.reason is ExitReason.RDTSCP:
        left = max(each.msrs.get(TSC_AUX, 0) for each in hv.machine.vcpus)
        saved[RCX] = saved[MSRS].get(TSC_AUX, left)
    step_over(vmcs)


BUG = Bug(
    name="stale-aux",
    title="an MSR of another domain's vCPU in a register",
    replaces="hvfuzz.hypervisor.core.exits:time_stamp",
    replacement=time_stamp,
    findings=("noninterference/registers/rdtscp",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom2, index=TSC_AUX, value=0x5ec2)
rdtscp(dom1)
""",
)
