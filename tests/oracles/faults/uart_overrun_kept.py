"""A serial port tells of an overrun for ever: the read of LSR does not clear it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.uart import Register, Uart

ORIGINAL = Uart._read


def replacement(self, register):
    overrun = self.overrun
    value = ORIGINAL(self, register)
    if register == Register.LSR:
        self.overrun = overrun
    return value


BUG = Bug(
    name="uart-overrun-kept",
    replaces="hvfuzz.hypervisor.devices.uart:Uart._read",
    replacement=replacement,
    findings=("exits/model/in",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3fc, size=1, value=0x10)
out(dom1, port=0x3f8, size=1, value=65)
out(dom1, port=0x3f8, size=1, value=66)
in(dom1, port=0x3fd, size=1)
""",
)
