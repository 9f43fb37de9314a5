"""A refused call from user mode gets #UD as well as its status (and the host forgets that VMCALL is no fault)."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import RAX

ORIGINAL = dispatch.vmcall


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    if vcpu.vmcs.saved[RAX] == Status.NOT_PERMITTED & U64:
        vcpu.pending_fault = GuestFault(Vector.UD)


BUG = Bug(
    name="fault-injected-on-vmcall",
    replaces="hvfuzz.hypervisor.core.dispatch:vmcall",
    replacement=replacement,
    findings=("exits/fault/vmcall",),
    trigger="""\
# hvp 1
world pair
vmcall(dom1, rax=device.assign, rdi=0)
""",
)
