"""sched.yield has a fast path, before the privilege check."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.registers import RAX, RDX, RIP

ORIGINAL = dispatch.vmcall


def replacement(hv, vcpu):
    saved = vcpu.vmcs.saved
    if saved[RAX] == 0x40:
        hv.scheduler.end_slice()
        saved[RAX] = saved[RDX] = 0
        saved[RIP] = saved[RIP] + vcpu.vmcs.length & U64
        return
    ORIGINAL(hv, vcpu)


BUG = Bug(
    name="user-fast-path",
    replaces="hvfuzz.hypervisor.core.dispatch:vmcall",
    replacement=replacement,
    findings=("exits/call/vmcall",),
    trigger="""\
# hvp 1
world pair
sysret(dom1)
vmcall(dom1, rax=sched.yield, rdi=0)
""",
)
