"""A call that is refused returns in RDX what the vCPU of another guest had there at its last exit.

The result register is written on success only, and on the way through the scheduler it was another guest's. A guest
that makes refused calls collects the results, the values written to MSRs, and the time stamps of the guest that shares
its processor (here the vCPU two numbers on).

In the trigger dom2 writes a secret to its counter (RDX has the upper half). A refused call of dom1 returns it.
"""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.dispatch import RDI, RDX, call
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.registers import RAX, RIP


def vmcall(hv, vcpu):
    """Handle a VMCALL exit."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    status, result = call(hv, vcpu, saved[RAX], saved[RDI])
    saved[RAX] = status & U64
    if status is Status.OK:
        saved[RDX] = result
    else:
        vcpus = hv.machine.vcpus
        last = vcpus[(vcpu.id + 2) % len(vcpus)].vmcs.saved
        saved[RDX] = last[RDX] if last else 0
    saved[RIP] = saved[RIP] + vmcs.length & U64


BUG = Bug(
    name="c10-refused-call-leaves-rdx",
    title="a refused call returns a register of another guest",
    replaces="hvfuzz.hypervisor.core.dispatch:vmcall",
    replacement=vmcall,
    findings=("exits/registers/grant.revoke",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom2, index=TSC, value=0x5ec2e75ec2e70000)
grant.revoke(dom1, ref=9)
""",
)
