"""The exception of a string instruction is injected into the vCPU of the machine that has the same number.

A guest raises exceptions in the control domain at will: each OUTS at an unmapped address is a #PF that the control
domain takes at its next VM entry, for an address that it never touched. It may kill the process or the kernel there.

In the trigger dom1 sends a string from an unmapped page; the next instruction of dom0 that exits ends in that #PF.
"""

from hvfuzz.abi.limits import STRING_BURST
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.string_io import move
from hvfuzz.hypervisor.vcpu.injection import inject
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.registers import RCX, RDI, RFLAGS, RSI
from hvfuzz.machine.mmu.paging import RFLAGS_DF


def transfer(hv, vcpu):
    """Move a burst; a fault goes to the vCPU with this number."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    register = RSI if vmcs.write else RDI
    step = -vmcs.width if saved[RFLAGS] & RFLAGS_DF else vmcs.width
    for _ in range(min(saved[RCX], STRING_BURST)):
        fault = move(hv, vcpu, saved[register])
        if fault is not None:
            inject(hv.machine.vcpus[vcpu.index], fault)
            return False
        saved[register] = saved[register] + step & U64
        saved[RCX] -= 1
    return not saved[RCX]


BUG = Bug(
    name="c01-fault-to-same-index",
    title="the exception of a guest's OUTS is injected into the control domain",
    replaces="hvfuzz.hypervisor.devices.string_io:transfer",
    replacement=transfer,
    findings=("principal/injection/outs",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
cpuid(dom0, leaf=0)
outs(dom1, port=0x3f8, size=1, gva=0x700000, times=1)
cpuid(dom0, leaf=0)
""",
)
