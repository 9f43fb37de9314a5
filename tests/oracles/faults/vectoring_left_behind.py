"""The delivery of an exception to which an exit belonged is noted in the VMCS of the other vCPU of the domain, too.

Its next access that stage 2 refuses is a double fault in place of #GP.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.cpuid


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    for each in hv.domains[vcpu.domain].vcpus:
        if each is not vcpu:
            each.vmcs.vectoring = 1 << 31 | 3 << 8 | 13


BUG = Bug(
    name="vectoring-left-behind",
    replaces="hvfuzz.hypervisor.core.exits:cpuid",
    replacement=replacement,
    findings=("principal/state/cpuid",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0)
load(dom1.1, gva=DIRECT+0x400000, size=8)
""",
)
