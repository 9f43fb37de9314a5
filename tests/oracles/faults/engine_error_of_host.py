"""A blocked copy leaves the host physical address that it reached before in the ERROR register."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.dma_engine import DmaEngine, Register

ORIGINAL = DmaEngine._copy


def replacement(self):
    ORIGINAL(self)
    if self.registers[Register.ERROR >> 3]:
        self.registers[Register.ERROR >> 3] = next(iter(self.iommu.iotlb.values()), (0, 0))[0]


BUG = Bug(
    name="engine-error-of-host",
    replaces="hvfuzz.machine.devices.dma_engine:DmaEngine._copy",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1ff8)
mmio_write(dom1, device=0, register=DST, size=8, value=0x1000)
mmio_write(dom1, device=0, register=LENGTH, size=8, value=0x10)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
""",
)
