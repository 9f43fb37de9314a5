"""The arbitration register of the I/O APIC does not follow the ID."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices import ioapic


def replacement(self):
    if self.select == ioapic.ID:
        return self.id
    return ioapic.VERSION_VALUE if self.select == ioapic.VERSION else 0


BUG = Bug(
    name="ioapic-arbitration",
    replaces="hvfuzz.hypervisor.devices.ioapic:IoApic._read",
    replacement=replacement,
    findings=("exits/registers/mmio_read",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=IOAPIC, register=IOREGSEL, size=4, value=0)
mmio_write(dom1, device=IOAPIC, register=IOWIN, size=4, value=0x5000000)
mmio_write(dom1, device=IOAPIC, register=IOREGSEL, size=4, value=2)
mmio_read(dom1, device=IOAPIC, register=IOWIN, size=4)
""",
)
