"""Assigning a device that needs no table asks for a page all the same, and is refused if it is denied."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls.device.assignment import Assign
from hvfuzz.hypervisor.memory.page_checks import POOL_TOO_SMALL

check = Assign.check


def replacement(self, hv, caller, vcpu):
    effect = check(self, hv, caller, vcpu)
    if type(effect) is Effect and hv.domains[self.to].dma.pool.lacks(1):
        return POOL_TOO_SMALL
    return effect


BUG = Bug(
    name="denied-nothing-but-refused",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:Assign.check",
    replacement=replacement,
    findings=("recount/need/device.assign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom0, device=0)
deny(dom0, request=0)
device.assign(dom0, device=0, to=dom2)
""",
)
