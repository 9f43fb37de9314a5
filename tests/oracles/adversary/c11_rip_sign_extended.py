"""After a hypercall RIP is made canonical, where the processor would fault.

Bit 47 is copied upwards, as if RIP had 48 bits. A VMCALL in the last bytes of the lower half goes on in the upper half:
at the first address of the kernel's half, in the hypervisor's hole, instead of in the #GP of its next fetch. Code in
the lower half, which a process can place, so jumps to the start of the upper half (the cousin of SYSRET's
CVE-2012-0217).

In the trigger the kernel's entry point is three bytes below 2^47, and the instruction there is VMCALL: #GP(0).
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.dispatch import RDI, RDX, call
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.registers import RAX, RIP

SIGN = 1 << 47


def vmcall(hv, vcpu):
    """Handle a VMCALL exit."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    status, result = call(hv, vcpu, saved[RAX], saved[RDI])
    saved[RAX] = status & U64
    saved[RDX] = result
    following = saved[RIP] + vmcs.length & (SIGN << 1) - 1
    saved[RIP] = (following ^ SIGN) - SIGN & U64


BUG = Bug(
    name="c11-rip-sign-extended",
    title="a hypercall at the end of the lower half returns to the start of the upper half",
    replaces="hvfuzz.hypervisor.core.dispatch:vmcall",
    replacement=vmcall,
    findings=("exits/registers/sched.yield",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=LSTAR, value=0x7ffffffffffd)
syscall(dom1)
sched.yield(dom1)
""",
)
