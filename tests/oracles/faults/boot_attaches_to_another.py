"""The device of domain 1 is attached to domain 2."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.start_processors


def replacement(hv):
    ORIGINAL(hv)
    bdf = hv.machine.devices[0].bdf
    hv.iommu.detach(bdf)
    hv.iommu.attach(bdf, hv.domains[2].dma)


BUG = Bug(
    name="boot-attaches-to-another",
    replaces="hvfuzz.hypervisor.core.boot:start_processors",
    replacement=replacement,
    findings=("specification/device/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
