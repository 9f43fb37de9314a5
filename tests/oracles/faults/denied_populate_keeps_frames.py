"""`memory.populate` takes its frames one by one, and keeps those that it has when there is none left."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.memory.reservation import Populate
from hvfuzz.hypervisor.memory.frames import FrameState

check = Populate.check


def replacement(self, hv, caller, vcpu):
    effect = check(self, hv, caller, vcpu)
    shortage = hv.machine.shortage
    if self.order or type(effect) is Effect or shortage.at < 0 or effect.status is not Status.NO_MEMORY:
        return effect
    for _ in range(shortage.at - shortage.requests + self.count):
        hv.allocator.alloc_page(caller.id, FrameState.OWNED)
    return Refused(Status.NO_MEMORY, "too few free frames")


BUG = Bug(
    name="denied-populate-keeps-frames",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:Populate.check",
    replacement=replacement,
    findings=("specification/fresh/memory.populate",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=2)
memory.populate(dom1, first=0x200, count=4, order=0)
""",
)
