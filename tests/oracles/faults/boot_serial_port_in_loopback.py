"""Serial ports begin in loopback: what a domain sends comes back to it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.uart import Uart

ORIGINAL = Uart.reset


def replacement(self):
    ORIGINAL(self)
    self.mcr = 0x10


BUG = Bug(
    name="boot-serial-port-in-loopback",
    replaces="hvfuzz.hypervisor.devices.uart:Uart.reset",
    replacement=replacement,
    findings=("exits/model/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
