"""CPUID leaves four bytes of the heap, from an odd offset on, across the middle of RBX."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import step_over
from hvfuzz.hypervisor.vcpu.cpuid import cpuid_leaf
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX


def replacement(hv, vcpu):
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    leaf = cpuid_leaf(vmcs.leaf, saved[RCX] & 0xFFFF_FFFF, vcpu.index, len(hv.domains[vcpu.domain].vcpus))
    saved[RAX], saved[RBX], saved[RCX], saved[RDX] = leaf
    saved[RBX] |= int.from_bytes(hv.host.read(hv.bounce + 0x303, 4), "little") << 24
    step_over(vmcs)


BUG = Bug(
    name="four-bytes-in-a-register",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=replacement,
    findings=("exits/registers/cpuid",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0x80000099)
""",
)
