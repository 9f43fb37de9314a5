"""The allocator does not know of the memory that firmware keeps: a guest gets it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.rmrr import read_regions
from hvfuzz.machine.vtd.dmar import DMAR_ADDRESS


def replacement(self):
    return read_regions(self.host, DMAR_ADDRESS)


BUG = Bug(
    name="reserved-as-ram",
    replaces="hvfuzz.hypervisor.core.hypervisor:Hypervisor._reserve",
    replacement=replacement,
    findings=("ownership/free/boot",),
    trigger="""\
# hvp 1
world reserved
memory.populate(dom2, first=0x400, count=1, order=0)
""",
)
