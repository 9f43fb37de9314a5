"""A write that finds no room in the ring is dropped."""

from hvfuzz.bugs import Bug


def replacement(self, offset, size, value):
    self._queue(0xFE012000 + offset, size, value)


BUG = Bug(
    name="ring-full-loses",
    replaces="hvfuzz.hypervisor.devices.coalesced_mmio:Window.mmio_write",
    replacement=replacement,
    findings=("exits/model/mmio_write",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x1f004, size=4, value=15)
mmio_write(dom1, device=COALESCED, register=DST, size=8, value=7)
""",
)
