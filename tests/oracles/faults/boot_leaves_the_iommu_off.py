"""Boot ends without DMA remapping: every device reaches all memory."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.start_processors


def replacement(hv):
    ORIGINAL(hv)
    hv.machine.iommu.disable()


BUG = Bug(
    name="boot-leaves-the-iommu-off",
    replaces="hvfuzz.hypervisor.core.boot:start_processors",
    replacement=replacement,
    findings=("ownership/context/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
