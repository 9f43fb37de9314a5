"""The same, with a canary in it, which nobody loads."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.memory import reservation
from hvfuzz.hypervisor.memory.table_tree import leaf_frame

ORIGINAL = reservation.PopulatePage.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    e, level, _ = hv.domains[2].stage2.lookup(0x30)
    hv.machine.memory.copy(self.hfn << 12, leaf_frame(e, level, 0x30) << 12, 4096)


BUG = Bug(
    name="silent-leak-of-canary",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulatePage.apply",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
""",
)
