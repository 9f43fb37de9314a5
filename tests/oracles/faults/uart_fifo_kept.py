"""Received bytes survive the FIFO being switched off: the next user of the port reads them."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.uart import Register, Uart

ORIGINAL = Uart._write


def replacement(self, register, value):
    if register == Register.IIR:
        self.fifo = bool(value & 1)
    else:
        ORIGINAL(self, register, value)


BUG = Bug(
    name="uart-fifo-kept",
    replaces="hvfuzz.hypervisor.devices.uart:Uart._write",
    replacement=replacement,
    findings=("exits/model/out",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3fa, size=1, value=1)
out(dom1, port=0x3fc, size=1, value=0x10)
out(dom1, port=0x3f8, size=1, value=65)
out(dom1, port=0x3fa, size=1, value=0)
""",
)
