"""Narrow writes are lost."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits


def replacement(hv, device, offset, width, value):
    exits.fill_slot(hv, hv.bounce + 8, value, width)
    if width == 8:
        device.mmio_write(offset, width, hv.host.read64(hv.bounce + 8))


BUG = Bug(
    name="write-lost",
    replaces="hvfuzz.hypervisor.core.exits:write_register",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=0, register=SRC, size=4, value=0x1234)
mmio_read(dom1, device=0, register=SRC, size=8)
""",
)
