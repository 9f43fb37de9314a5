"""A leaf tells how many frames the host has free... by its number."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.cpuid_leaf


def replacement(leaf, subleaf, apic_id, vcpus):
    return (leaf, 0, 0, 0) if leaf == 7 else ORIGINAL(leaf, subleaf, apic_id, vcpus)


BUG = Bug(
    name="cpuid-width",
    replaces="hvfuzz.hypervisor.core.exits:cpuid_leaf",
    replacement=replacement,
    findings=("exits/registers/cpuid",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=7)
""",
)
