"""An MSR of the guest changes in a CPUID exit, in the vCPU and in the saved state."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.cpuid


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    vcpu.msrs[0xC0000082] = 0x1000
    vcpu.vmcs.saved[24][0xC0000082] = 0x1000


BUG = Bug(
    name="msrs-in-place",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=replacement,
    findings=("exits/registers/cpuid",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0)
rdmsr(dom1, index=LSTAR)
""",
)
