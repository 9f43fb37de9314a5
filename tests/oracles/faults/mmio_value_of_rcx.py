"""A store to a register stores RDI."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.machine.cpu.registers import Reg

RDI = int(Reg.RDI)

ORIGINAL = exits.ept_violation


def replacement(hv, vcpu):
    s = vcpu.vmcs.saved
    a = s[0]
    if vcpu.vmcs.write:
        s[0] = s[7]
    ORIGINAL(hv, vcpu)
    if vcpu.vmcs.write:
        s[0] = a


BUG = Bug(
    name="mmio-value-of-rcx",
    replaces="hvfuzz.hypervisor.core.exits:ept_violation",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
mmio_write(dom1, device=0, register=SRC, size=8, value=5)
mmio_read(dom1, device=0, register=SRC, size=8)
""",
)
