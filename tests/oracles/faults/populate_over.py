"""The range of order 9 may end one block beyond MAX_GFN."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls.memory import reservation

ORIGINAL = reservation.Populate.check


def replacement(self, hv, caller, vcpu):
    if self.order == 9 and self.first == 0x800 and self.count == 1:
        return Effect((reservation.PopulateBlock(caller.id, 0x800, hv.allocator.choose_blocks(1)[0]),), 1)
    return ORIGINAL(self, hv, caller, vcpu)


BUG = Bug(
    name="populate-over",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:Populate.check",
    replacement=replacement,
    findings=("specification/status/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x800, count=1, order=9)
""",
)
