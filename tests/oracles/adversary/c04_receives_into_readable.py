"""A network card writes a received frame to all buffers of the chain, those included that are only for reading.

The flag WRITE of a descriptor (VIRTIO 1.2, 2.7.5) is not looked at for a received frame. The sender of a frame, anyone
on the network, writes to memory that the driver has offered to read only: its headers, or constants of the kernel.

In the trigger the first buffer of the receive chain is a readable one; the frame overwrites it.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.net import RECEIVE, RECEIVED
from hvfuzz.machine.devices.virtio.virtqueue import length


def receive(self, frame):
    """Put a frame into the buffers of the next chain."""
    queue = self.queues[RECEIVE]
    chain = queue.pop() if queue.enabled else None
    if chain is None:
        return
    packet = RECEIVED + frame
    room = chain.readable + chain.writable
    if length(room) < len(packet):
        queue.put_back()
        return
    self.scatter(room, 0, packet)
    queue.push(chain, len(packet))


BUG = Bug(
    name="c04-receives-into-readable",
    title="a network card writes to buffers that the driver gave it only to read",
    replaces="hvfuzz.machine.devices.virtio.net:VirtioNet._receive",
    replacement=receive,
    findings=("exits/dma/mmio_write",),
    story=__doc__,
    trigger="""\
# hvp 1
world virtio
device.dma_map(dom2, iova=0x40000, gfn=0x40, count=4, rights=R|W)
mmio_write(dom2, device=3, register=DEVICE_STATUS, size=8, value=3)
mmio_write(dom2, device=3, register=DRIVER_FEATURES, size=8, value=0x100000000)
mmio_write(dom2, device=3, register=DEVICE_STATUS, size=8, value=0xb)
mmio_write(dom2, device=3, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom2, device=3, register=QUEUE_DRIVER, size=8, value=0x40100)
mmio_write(dom2, device=3, register=QUEUE_DEVICE, size=8, value=0x40200)
mmio_write(dom2, device=3, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom2, device=3, register=QUEUE_SELECT, size=8, value=1)
mmio_write(dom2, device=3, register=QUEUE_DESC, size=8, value=0x40400)
mmio_write(dom2, device=3, register=QUEUE_DRIVER, size=8, value=0x40500)
mmio_write(dom2, device=3, register=QUEUE_DEVICE, size=8, value=0x40600)
mmio_write(dom2, device=3, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom2, device=3, register=DEVICE_STATUS, size=8, value=0xf)
store(dom2, gva=DIRECT+0x43000, size=8, value=0x6b6565706d65)
store(dom2, gva=DIRECT+0x40000, size=8, value=0x43000)
store(dom2, gva=DIRECT+0x40008, size=8, value=0x1000100000040)
store(dom2, gva=DIRECT+0x40010, size=8, value=0x41000)
store(dom2, gva=DIRECT+0x40018, size=8, value=0x200000800)
store(dom2, gva=DIRECT+0x40102, size=2, value=1)
store(dom2, gva=DIRECT+0x40400, size=8, value=0x42000)
store(dom2, gva=DIRECT+0x40408, size=8, value=0x60)
store(dom2, gva=DIRECT+0x40502, size=2, value=1)
mmio_write(dom2, device=3, register=NOTIFY, size=8, value=1)
load(dom2, gva=DIRECT+0x43000, size=8)
""",
)
