"""A word of the control area is written, unannounced."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.fill_slot


def replacement(hv, slot, value, width):
    ORIGINAL(hv, slot, value, width)
    hv.machine.memory.store64(64, value)


BUG = Bug(
    name="heap-write-silent",
    replaces="hvfuzz.hypervisor.core.exits:fill_slot",
    replacement=replacement,
    findings=("host_memory/unannounced/mmio_read",),
    trigger="""\
# hvp 1
world pair
mmio_read(dom1, device=0, register=ID, size=8)
""",
)
