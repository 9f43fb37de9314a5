"""A copy of the console gives the other vCPU of the domain the caller's GS_BASE: here while that vCPU races it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = guest_access.raw_copy_from_guest
GS_BASE = 0xC0000101


def replacement(hv, vcpu, gva, size):
    for each in hv.domains[vcpu.domain].vcpus:
        if each is not vcpu:
            each.msrs[GS_BASE] = vcpu.vmcs.saved[24].get(GS_BASE, 0)
    return ORIGINAL(hv, vcpu, gva, size)


BUG = Bug(
    name="msr-of-a-sibling-raced",
    replaces="hvfuzz.hypervisor.memory.guest_access:raw_copy_from_guest",
    replacement=replacement,
    findings=("principal/state/discovery.limits",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=GS_BASE, value=0x7000)
race 0: wrmsr(dom1.1, index=GS_BASE, value=0x9000)
discovery.limits(dom1, what=GRANTS)
""",
)
