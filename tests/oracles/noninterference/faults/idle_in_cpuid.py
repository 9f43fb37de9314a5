"""CPUID of the version leaf tells in EBX how many vCPUs of the machine wait."""

from hvfuzz.abi.boot import CPUID_VERSION
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import step_over
from hvfuzz.hypervisor.vcpu.cpuid import cpuid_leaf
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX


def cpuid(hv, vcpu):
    """CPUID, with a number of the host."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    vcpus = len(hv.domains[vcpu.domain].vcpus)
    answer = list(cpuid_leaf(vmcs.leaf, saved[RCX] & 0xFFFF_FFFF, vcpu.index, vcpus))
    if vmcs.leaf == CPUID_VERSION:
        answer[1] = sum(each.runnable != 0 for each in hv.machine.vcpus)
    saved[RAX], saved[RBX], saved[RCX], saved[RDX] = answer
    step_over(vmcs)


BUG = Bug(
    name="idle-in-cpuid",
    title="CPUID counts the waiting vCPUs of all domains",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=cpuid,
    findings=("noninterference/registers/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
sched.block(dom2)
cpuid(dom1, leaf=0x40000001)
""",
)
