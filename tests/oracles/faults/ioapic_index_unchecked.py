"""The index of a redirection entry is not compared with their number: CVE-2013-1798."""

from hvfuzz.bugs import Bug


def replacement(self):
    return self.entries + (self.select - 0x10 >> 1) * 8 if self.select >= 0x10 else 0


BUG = Bug(
    name="ioapic-index-unchecked",
    replaces="hvfuzz.hypervisor.devices.ioapic:IoApic.entry",
    replacement=replacement,
    findings=("exits/model/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=IOAPIC, register=IOREGSEL, size=4, value=32)
mmio_write(dom1, device=IOAPIC, register=IOWIN, size=4, value=7)
""",
)
