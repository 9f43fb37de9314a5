"""All serial ports have one scratch register: what one domain leaves there, another one reads."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.uart import Register, Uart

READ = Uart._read
WRITE = Uart._write
LAST = [0]


def replacement(self, register):
    LAST[0] = self.scratch or LAST[0]
    return LAST[0] if register == Register.SCR else READ(self, register)


BUG = Bug(
    name="uart-scratch-of-any",
    replaces="hvfuzz.hypervisor.devices.uart:Uart._read",
    replacement=replacement,
    findings=("exits/registers/in",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3ff, size=1, value=0x5a)
in(dom1, port=0x3ff, size=1)
in(dom2, port=0x3ff, size=1)
""",
)
