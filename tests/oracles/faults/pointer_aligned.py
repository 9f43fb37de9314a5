"""Argument structs are taken from the aligned-down address."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.call


def replacement(hv, vcpu, number, pointer):
    return ORIGINAL(hv, vcpu, number, pointer & ~7)


BUG = Bug(
    name="pointer-aligned",
    replaces="hvfuzz.hypervisor.core.dispatch:call",
    replacement=replacement,
    findings=("fetch/asked/discovery.limits",),
    trigger="""\
# hvp 1
world pair
discovery.limits(dom1, what=GRANTS)
store(dom1, gva=DIRECT+0x10000, size=8, value=0x20010)
store(dom1, gva=DIRECT+0x10008, size=8, value=8)
vmcall(dom1, rax=discovery.limits, rdi=DIRECT+0x10004)
""",
)
