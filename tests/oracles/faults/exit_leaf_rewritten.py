"""CPUID answers for another leaf, and says in the exit information that this was the one that the guest asked for."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.cpuid


def replacement(hv, vcpu):
    vcpu.vmcs.leaf = 1
    ORIGINAL(hv, vcpu)


BUG = Bug(
    name="exit-leaf-rewritten",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=replacement,
    findings=("exits/registers/cpuid",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0x40000000)
""",
)
