"""A device publishes a used buffer before it has written which one: the index of the used ring first, then the element.

VIRTIO 1.2, 2.7.8.2, demands the other order. A driver that polls the ring on another vCPU takes the old element: it
frees, or reads the data of, a buffer that the device still owns, with a length of another request.

In the trigger a driver reads a sector. The ring is right in the end.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.virtqueue import DEVICE, NEXT_USED, RING, RING_INDEX, U16, USED_ELEMENT


def push(self, chain, written):
    """Write the index, then the element."""
    registers, base = self.registers, self.base
    ring, position = registers[base + DEVICE], registers[base + NEXT_USED]
    write = self.device.write
    registers[base + NEXT_USED] = following = position + 1 & U16
    write(ring + RING_INDEX, following.to_bytes(2, "little"))
    write(ring + RING + USED_ELEMENT.size * (position % self.size), USED_ELEMENT.pack(chain.head, written))


BUG = Bug(
    name="c04-used-index-first",
    title="a device moves the index of the used ring before it has written the element",
    replaces="hvfuzz.machine.devices.virtio.virtqueue:Virtqueue.push",
    replacement=push,
    findings=("exits/dma/mmio_write",),
    story=__doc__,
    trigger="""\
# hvp 1
world virtio
device.dma_map(dom1, iova=0x40000, gfn=0x40, count=4, rights=R|W)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=3)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0x100000000)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xb)
mmio_write(dom1, device=2, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom1, device=2, register=QUEUE_DRIVER, size=8, value=0x40100)
mmio_write(dom1, device=2, register=QUEUE_DEVICE, size=8, value=0x40200)
mmio_write(dom1, device=2, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xf)
store(dom1, gva=DIRECT+0x40300, size=8, value=0)
store(dom1, gva=DIRECT+0x40308, size=8, value=0)
store(dom1, gva=DIRECT+0x40000, size=8, value=0x40300)
store(dom1, gva=DIRECT+0x40008, size=8, value=0x1000100000010)
store(dom1, gva=DIRECT+0x40010, size=8, value=0x41000)
store(dom1, gva=DIRECT+0x40018, size=8, value=0x2000300000200)
store(dom1, gva=DIRECT+0x40020, size=8, value=0x40310)
store(dom1, gva=DIRECT+0x40028, size=8, value=0x200000001)
store(dom1, gva=DIRECT+0x40100, size=8, value=0x10000)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
load(dom1, gva=DIRECT+0x40204, size=8)
""",
)
