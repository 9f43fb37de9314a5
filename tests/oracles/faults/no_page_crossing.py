"""Ranges that cross a page are refused with FAULT."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = guest_access.copy_from_guest


def replacement(hv, vcpu, gva, size):
    if size and (gva ^ gva + size - 1) >> 12:
        return None
    return ORIGINAL(hv, vcpu, gva, size)


BUG = Bug(
    name="no-page-crossing",
    replaces="hvfuzz.hypervisor.memory.guest_access:copy_from_guest",
    replacement=replacement,
    findings=("specification/status/console.write",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40ff8, size=8, value=0x20010)
store(dom1, gva=DIRECT+0x41000, size=8, value=8)
vmcall(dom1, rax=discovery.limits, rdi=DIRECT+0x40ff8)
console.write(dom1, text=DIRECT+0x40ff8, length=16)
""",
)
