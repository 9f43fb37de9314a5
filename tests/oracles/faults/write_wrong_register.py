"""The offset is taken modulo 64: a write to a place without registers lands in one."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits


def replacement(hv, device, offset, width, value):
    exits.fill_slot(hv, hv.bounce + 8, value, width)
    device.mmio_write(offset & 0x3F, width, hv.host.read64(hv.bounce + 8))


BUG = Bug(
    name="write-wrong-register",
    replaces="hvfuzz.hypervisor.core.exits:write_register",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=0, register=0x800, size=8, value=0x1234)
mmio_read(dom1, device=0, register=SRC, size=8)
""",
)
