"""A device of a domain begins with what firmware left in its registers."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.start_processors


def replacement(hv):
    ORIGINAL(hv)
    hv.machine.devices[1].mmio_write(0, 8, 0x1000)


BUG = Bug(
    name="boot-device-programmed",
    replaces="hvfuzz.hypervisor.core.boot:start_processors",
    replacement=replacement,
    findings=("exits/device/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
