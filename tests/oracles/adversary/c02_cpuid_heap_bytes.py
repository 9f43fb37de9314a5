"""CPUID of a hypervisor leaf that does not exist returns four pieces of an uninitialised buffer.

KVM copied structures to guests without clearing them (CVE-2010-3881, CVE-2010-4525). Here the four registers get
consecutive bytes of a heap page, from an odd offset on: the secret of the page is spread over several registers.

In the trigger dom1 asks for such a leaf; all four registers hold host memory.
"""

from hvfuzz.abi.boot import CPUID_VERSION
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import step_over
from hvfuzz.hypervisor.vcpu.cpuid import HYPERVISOR_LEAVES, cpuid_leaf
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX

STALE = 0x23
"""Offset of the buffer in the page."""


def cpuid(hv, vcpu):
    """CPUID, with a buffer for the answer."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    vcpus = len(hv.domains[vcpu.domain].vcpus)
    answer = list(cpuid_leaf(vmcs.leaf, saved[RCX] & 0xFFFF_FFFF, vcpu.index, vcpus))
    if vmcs.leaf in HYPERVISOR_LEAVES and vmcs.leaf > CPUID_VERSION:
        buffer = hv.host.read(hv.bounce + STALE, 16)
        answer = [int.from_bytes(buffer[at : at + 4], "little") for at in range(0, 16, 4)]
    saved[RAX], saved[RBX], saved[RCX], saved[RDX] = answer
    step_over(vmcs)


BUG = Bug(
    name="c02-cpuid-heap-bytes",
    title="CPUID leaves that do not exist return 16 bytes of the hypervisor's heap",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=cpuid,
    findings=("exits/registers/cpuid",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0x40000002)
""",
)
