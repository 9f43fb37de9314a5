"""The call number is an 8-bit index into the table: the other 56 bits of RAX are cut off."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.call


def replacement(hv, vcpu, number, pointer):
    return ORIGINAL(hv, vcpu, number & 0xFF, pointer)


BUG = Bug(
    name="number-truncated",
    replaces="hvfuzz.hypervisor.core.dispatch:call",
    replacement=replacement,
    findings=("fetch/asked/sched.yield",),
    trigger="""\
# hvp 1
world pair
vmcall(dom1, rax=0xdead000000000140, rdi=DIRECT+0x10000)
sched.yield(dom1)
vmcall(dom1, rax=0xdead000000000140, rdi=DIRECT+0x10000)
""",
)
