"""A device whose requests are not translated writes to the registers of a device that another domain has."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.register_windows import registers_of
from hvfuzz.machine.vtd.iommu import Iommu

TRANSLATE = Iommu.translate


def replacement(self, bdf, iova, access):
    return iova if iova == registers_of(1) else TRANSLATE(self, bdf, iova, access)


BUG = Bug(
    name="registers-by-pass-through",
    replaces="hvfuzz.machine.vtd.iommu:Iommu.translate",
    replacement=replacement,
    findings=("stale/remapping/mmio_write",),
    trigger=f"""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1000)
mmio_write(dom1, device=0, register=DST, size=8, value={registers_of(1):#x})
mmio_write(dom1, device=0, register=LENGTH, size=8, value=8)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
""",
)
