"""A narrow write writes the whole register."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import SIZE_MASK


def replacement(hv, device, offset, width, value):
    hv.host.write64(hv.bounce + 8, value)
    device.mmio_write(offset & ~7, 8, value & SIZE_MASK[width] << 8 * (offset & 7))


BUG = Bug(
    name="write-widened",
    replaces="hvfuzz.hypervisor.core.exits:write_register",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1122334455667788)
mmio_write(dom1, device=0, register=SRC, size=1, value=0)
mmio_read(dom1, device=0, register=SRC, size=8)
""",
)
