"""The ERROR register of an engine shows the last blocked address of any device."""

from hvfuzz.bugs import Bug


def replacement(self, register):
    if register == 0x28 and self.iommu.faults:
        return self.iommu.faults[-1].page
    index = register >> 3
    return self.registers[index] if index < len(self.registers) else 0


BUG = Bug(
    name="error-of-any",
    replaces="hvfuzz.machine.devices.dma_engine:DmaEngine.read_register",
    replacement=replacement,
    findings=("exits/registers/mmio_read",),
    trigger="""\
# hvp 1
world devices
mmio_read(dom2, device=1, register=ERROR, size=8)
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1234000)
mmio_write(dom1, device=0, register=LENGTH, size=8, value=8)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
mmio_read(dom2, device=1, register=ERROR, size=8)
""",
)
