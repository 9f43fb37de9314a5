"""The EPT pointer asks for accessed and dirty flags: hardware writes to the tables."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.mmu import ept


def replacement(self):

    return ept.eptp_of(self.root) | 1 << 6


BUG = Bug(
    name="eptp-flags",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.eptp",
    replacement=replacement,
    findings=("exits/control/boot",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x40000, size=8)
memory.protect(dom1, first=0x40, count=1, rights=R)
""",
)
