"""A result is as long as the FIFO and the memory behind it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.fdc import Phase


def replacement(self, result):
    self.host.write(self.buffer, result)
    self.length = 64
    self.position = 0
    self.phase = Phase.RESULT


BUG = Bug(
    name="fifo-result-overread",
    replaces="hvfuzz.hypervisor.devices.fdc:Fifo._give",
    replacement=replacement,
    findings=("exits/registers/in",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3f5, size=1, value=142)
out(dom1, port=0x3f5, size=1, value=193)
out(dom1, port=0x3f5, size=1, value=16)
in(dom1, port=0x3f5, size=1)
in(dom1, port=0x3f5, size=1)
""",
)
