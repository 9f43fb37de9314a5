"""CPUID of a leaf that does not exist leaves in EBX a word of the hypervisor's heap."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import step_over
from hvfuzz.hypervisor.vcpu.cpuid import cpuid_leaf
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX


def cpuid(hv, vcpu):
    """CPUID, with an answer that was not initialised."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    vcpus = len(hv.domains[vcpu.domain].vcpus)
    answer = list(cpuid_leaf(vmcs.leaf, saved[RCX] & 0xFFFF_FFFF, vcpu.index, vcpus))
    if vmcs.leaf == 0x40000005:
        answer[1] = hv.host.read64(hv.bounce + 0x800) & 0xFFFF
    saved[RAX], saved[RBX], saved[RCX], saved[RDX] = answer
    step_over(vmcs)


BUG = Bug(
    name="heap-in-rbx",
    title="two bytes of the heap in a register",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=cpuid,
    findings=("noninterference/registers/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0x40000005)
""",
)
