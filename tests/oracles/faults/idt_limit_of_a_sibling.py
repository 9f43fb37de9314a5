"""CPUID leaves every vCPU of the domain with an IDT of a page at most: a handler of a sibling is out of reach."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.cpuid


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    for each in hv.domains[vcpu.domain].vcpus:
        if each is not vcpu:
            each.idtr = (each.idtr[0], min(each.idtr[1], 0xFE))


BUG = Bug(
    name="idt-limit-of-a-sibling",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=replacement,
    findings=("principal/state/cpuid",),
    trigger="""\
# hvp 1
world pair
lidt(dom1.1, gva=DIRECT+0x50000, limit=4095)
cpuid(dom1, leaf=0)
""",
)
