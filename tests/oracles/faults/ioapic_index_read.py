"""The same, where the window is only read: it shows what lies behind the entries."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.ioapic import LOW


def replacement(self):
    address = self.entries + (self.select - 0x10 >> 1) * 8
    return self.host.read64(address) >> (self.select & 1) * 32 & LOW


BUG = Bug(
    name="ioapic-index-read",
    replaces="hvfuzz.hypervisor.devices.ioapic:IoApic._read",
    replacement=replacement,
    findings=("exits/registers/mmio_read",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=IOAPIC, register=IOREGSEL, size=4, value=255)
mmio_read(dom1, device=IOAPIC, register=IOWIN, size=4)
""",
)
