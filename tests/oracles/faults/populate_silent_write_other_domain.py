"""The frame behind the one that is freed is scrubbed too: another page of the guest's (or somebody else's)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.memory import reservation

ORIGINAL = reservation.RemovePage.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    hv.machine.memory.fill(self.hfn + 1)


BUG = Bug(
    name="populate-silent-write-other-domain",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:RemovePage.apply",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.decrease",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x61000, size=8, value=0x99)
memory.decrease(dom1, first=0x60, count=1)
load(dom1, gva=DIRECT+0x61000, size=8)
""",
)
