"""A DMA engine goes on after a blocked piece, with the data of the piece before, and reports success.

The buffer inside the engine still holds what it read last. Where the IOMMU refuses a read, these bytes are written in
its place: they go to a page that they were never meant for (another user's, behind a shared engine), and the driver is
told that all is well.

In the trigger the second of two source pages is not mapped. The first page is copied twice; STATUS says DONE.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, U64
from hvfuzz.machine.devices.dma_engine import DONE, Register
from hvfuzz.machine.vtd.iommu import DmaFault


def copy(self):
    """Copy piece by piece, by way of a buffer."""
    registers = self.registers
    source, destination, left = (registers[each >> 3] for each in (Register.SRC, Register.DST, Register.LENGTH))
    buffer = b""
    error = 0
    while left:
        size = min(left, PAGE_SIZE - (source & PAGE_MASK), PAGE_SIZE - (destination & PAGE_MASK))
        try:
            buffer = self.dma_read(source, size)
        except DmaFault as fault:
            error = fault.iova
        try:
            self.dma_write(destination, buffer[:size])
        except DmaFault as fault:
            error = fault.iova
        source = source + size & U64
        destination = destination + size & U64
        left -= size
    registers[Register.STATUS >> 3] = DONE
    registers[Register.ERROR >> 3] = error


BUG = Bug(
    name="c04-engine-skips-blocked",
    title="a DMA engine writes stale data where a read was blocked, and reports success",
    replaces="hvfuzz.machine.devices.dma_engine:DmaEngine._copy",
    replacement=copy,
    findings=("exits/dma/mmio_write",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40000, size=8, value=0x40)
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_map(dom1, iova=0x5000, gfn=0x50, count=2, rights=R|W)
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1000)
mmio_write(dom1, device=0, register=DST, size=8, value=0x5000)
mmio_write(dom1, device=0, register=LENGTH, size=8, value=0x2000)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
mmio_read(dom1, device=0, register=STATUS, size=8)
load(dom1, gva=DIRECT+0x51000, size=8)
""",
)
