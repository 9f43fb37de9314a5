"""A device that writes over a page border logs the first page again, instead of each page that it writes.

The log of written pages (VHOST_F_LOG_ALL) tells a migration which pages to send again. A page that is missing there
keeps its old content on the other host: the guest goes on with data of before its disk's answer, possibly those of
another user of that memory. The loop uses the start of the buffer where it should use the place it has come to.

In the trigger a sector is read to a buffer over a page border; the log lacks the second page.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, U64
from hvfuzz.machine.devices.virtio.register_map import LOG_ALL, Register


def write(self, iova, data):
    """Write page by page, and log the page of the start."""
    logged = self.registers[Register.DRIVER_FEATURES >> 3] & LOG_ALL
    at = 0
    while at < len(data):
        piece = data[at : at + PAGE_SIZE - (iova + at & PAGE_MASK)]
        self.dma_write(iova + at & U64, piece)
        if logged:
            self._log(iova >> PAGE_SHIFT)
        at += len(piece)


BUG = Bug(
    name="c04-log-first-page-only",
    title="the log of written pages lacks all but the first page of a buffer",
    replaces="hvfuzz.machine.devices.virtio.transport:VirtioDevice.write",
    replacement=write,
    findings=("exits/answer/mmio_write",),
    story=__doc__,
    trigger="""\
# hvp 1
world virtio
device.dma_map(dom1, iova=0x40000, gfn=0x40, count=4, rights=R|W)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=3)
mmio_write(dom1, device=2, register=DRIVER_FEATURES, size=8, value=0x104000000)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xb)
mmio_write(dom1, device=2, register=QUEUE_DESC, size=8, value=0x40000)
mmio_write(dom1, device=2, register=QUEUE_DRIVER, size=8, value=0x40100)
mmio_write(dom1, device=2, register=QUEUE_DEVICE, size=8, value=0x40200)
mmio_write(dom1, device=2, register=QUEUE_ENABLE, size=8, value=1)
mmio_write(dom1, device=2, register=DEVICE_STATUS, size=8, value=0xf)
mmio_write(dom1, device=2, register=LOG_BASE, size=8, value=0x43000)
store(dom1, gva=DIRECT+0x40300, size=8, value=0)
store(dom1, gva=DIRECT+0x40308, size=8, value=0)
store(dom1, gva=DIRECT+0x40000, size=8, value=0x40300)
store(dom1, gva=DIRECT+0x40008, size=8, value=0x1000100000010)
store(dom1, gva=DIRECT+0x40010, size=8, value=0x41f00)
store(dom1, gva=DIRECT+0x40018, size=8, value=0x2000300000200)
store(dom1, gva=DIRECT+0x40020, size=8, value=0x40310)
store(dom1, gva=DIRECT+0x40028, size=8, value=0x200000001)
store(dom1, gva=DIRECT+0x40100, size=8, value=0x10000)
mmio_write(dom1, device=2, register=NOTIFY, size=8, value=0)
load(dom1, gva=DIRECT+0x43008, size=1)
""",
)
