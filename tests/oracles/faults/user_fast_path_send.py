"""event.send has a fast path that does not report itself, nor look at the ring."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.registers import RAX, RDX, RIP, Reg

RDI = int(Reg.RDI)

ORIGINAL = dispatch.vmcall


def replacement(hv, vcpu):
    saved = vcpu.vmcs.saved
    if saved[RAX] == 0x32 and vcpu.cpl:
        entry = event_channels.lookup(hv.domains[vcpu.domain], saved[RDI] & 0x7F)
        if entry is not None and entry.state:
            event_channels.Deliver(entry.remote, entry.remote_port).apply(hv)
        saved[RAX] = saved[RDX] = 0
        saved[RIP] = saved[RIP] + vcpu.vmcs.length & U64
        return
    ORIGINAL(hv, vcpu)


BUG = Bug(
    name="user-fast-path-send",
    replaces="hvfuzz.hypervisor.core.dispatch:vmcall",
    replacement=replacement,
    findings=("exits/call/vmcall",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
sysret(dom1)
vmcall(dom1, rax=event.send, rdi=0)
""",
)
