"""The topology leaf counts the virtual CPUs of all domains: a guest sees others come and go."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.cpuid_leaf


def replacement(leaf, subleaf, apic_id, vcpus):
    return ORIGINAL(leaf, subleaf, apic_id, 5)


BUG = Bug(
    name="cpuid-tells-all-vcpus",
    replaces="hvfuzz.hypervisor.core.exits:cpuid_leaf",
    replacement=replacement,
    findings=("exits/registers/cpuid_count",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0xb)
cpuid_count(dom1, leaf=0xb, subleaf=1)
""",
)
