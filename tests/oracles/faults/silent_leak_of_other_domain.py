"""The new page holds what another domain has in a page of its own (copied unannounced, no canary in it)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.memory import reservation
from hvfuzz.hypervisor.memory.table_tree import leaf_frame

ORIGINAL = reservation.PopulatePage.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    e, level, _ = hv.domains[2].stage2.lookup(0x50)
    hv.machine.memory.copy(self.hfn << 12, leaf_frame(e, level, 0x50) << 12, 64)


BUG = Bug(
    name="silent-leak-of-other-domain",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulatePage.apply",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.populate",),
    trigger="""\
# hvp 1
world pair
store(dom2, gva=DIRECT+0x50000, size=8, value=0xcafe)
memory.populate(dom1, first=0x200, count=1, order=0)
load(dom1, gva=DIRECT+0x200000, size=8)
""",
)
