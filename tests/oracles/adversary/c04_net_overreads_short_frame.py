"""A network card pads a short frame to 60 bytes with what follows the driver's buffer in memory.

This is Etherleak (CVE-2003-0001), by DMA: the device reads beyond the buffers of the chain, and sends up to 46 bytes
that the driver never gave it (VIRTIO 1.2, 2.7.4: a device uses the buffers of the chain only). Who is on the network
reads the sender's memory.

In the trigger the driver sends 20 bytes; a secret stands behind its buffer and comes back in the received frame.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.net import HEADER, MAX_FRAME, RECEIVE, TRANSMIT
from hvfuzz.machine.devices.virtio.virtqueue import NEXT_USED, Malformed, length

SHORTEST = 60


def serve(self, number):
    """Send the frames, none shorter than SHORTEST."""
    if number != TRANSMIT:
        return
    queue, other = self.queues[TRANSMIT], self.queues[RECEIVE]
    before, received = self.registers[queue.base + NEXT_USED], self.registers[other.base + NEXT_USED]
    for _ in range(queue.size):
        chain = queue.pop()
        if chain is None:
            break
        size = length(chain.readable)
        if size < HEADER.size:
            raise Malformed("no room for the header of a frame")
        if size - HEADER.size <= MAX_FRAME:
            frame = self.gather(chain.readable, HEADER.size, size - HEADER.size)
            if len(frame) < SHORTEST:
                address, room = chain.readable[-1]
                frame += self.read(address + room, SHORTEST - len(frame))
            self._receive(frame)
        queue.push(chain, 0)
    if queue.wants_interrupt(before) | (other.enabled and other.wants_interrupt(received)):
        self.raise_interrupt()


BUG = Bug(
    name="c04-net-overreads-short-frame",
    title="a network card reads beyond a short buffer, and sends what it finds",
    replaces="hvfuzz.machine.devices.virtio.net:VirtioNet.serve",
    replacement=serve,
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
store(dom2, gva=DIRECT+0x40000, size=8, value=0x41000)
store(dom2, gva=DIRECT+0x40008, size=8, value=0x200000800)
store(dom2, gva=DIRECT+0x40102, size=2, value=1)
store(dom2, gva=DIRECT+0x42020, size=8, value=0x5ec2e75ec2e7)
store(dom2, gva=DIRECT+0x40400, size=8, value=0x42000)
store(dom2, gva=DIRECT+0x40408, size=8, value=0x20)
store(dom2, gva=DIRECT+0x40502, size=2, value=1)
mmio_write(dom2, device=3, register=NOTIFY, size=8, value=1)
load(dom2, gva=DIRECT+0x40204, size=8)
load(dom2, gva=DIRECT+0x41020, size=8)
""",
)
