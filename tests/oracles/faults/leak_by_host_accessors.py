"""The same, by HostMemory."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.memory import reservation
from hvfuzz.hypervisor.memory.table_tree import leaf_frame

ORIGINAL = reservation.PopulatePage.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    e, level, _ = hv.domains[2].stage2.lookup(0x50)
    hv.host.write(self.hfn << 12, hv.host.read(leaf_frame(e, level, 0x50) << 12, 64))


BUG = Bug(
    name="leak-by-host-accessors",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:PopulatePage.apply",
    replacement=replacement,
    findings=("host_memory/guest/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
""",
)
