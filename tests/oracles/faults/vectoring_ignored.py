"""A stack in a device's registers is #GP(0), whatever exception was being delivered: it is lost."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.faults import GuestFault


def replacement(hv, vcpu):
    vcpu.pending_fault = GuestFault(13)


BUG = Bug(
    name="vectoring-ignored",
    replaces="hvfuzz.hypervisor.core.exits:refuse_access",
    replacement=replacement,
    findings=("exits/fault/load",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x500e0, size=8, value=0x8e000010a000)
store(dom1, gva=DIRECT+0x500e8, size=8, value=0xffff8800)
store(dom1, gva=DIRECT+0x51004, size=8, value=0xffff8800fe000800)
lidt(dom1, gva=DIRECT+0x50000, limit=0xfff)
ltr(dom1, gva=DIRECT+0x51000, limit=0x67)
sysret(dom1)
load(dom1, gva=DIRECT+0x52fe0, size=8)
""",
)
