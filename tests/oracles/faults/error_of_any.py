"""The ERROR register of an engine shows the last blocked address of any device, also of another domain's."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.dma_engine import DmaEngine, Register

ORIGINAL = DmaEngine.read_register


def replacement(self, register):
    if register == Register.ERROR and self.iommu.faults:
        return self.iommu.faults[-1].page
    return ORIGINAL(self, register)


BUG = Bug(
    name="error-of-any",
    replaces="hvfuzz.machine.devices.dma_engine:DmaEngine.read_register",
    replacement=replacement,
    findings=("exits/registers/mmio_read",),
    trigger="""\
# hvp 1
world devices
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1234000)
mmio_write(dom1, device=0, register=LENGTH, size=8, value=8)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
mmio_read(dom2, device=1, register=ERROR, size=8)
""",
)
