"""The pool of domain 1 is thought too small for the memory that firmware reserves for a device."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls.device.assignment import Assign
from hvfuzz.hypervisor.memory.page_checks import POOL_TOO_SMALL

REAL = Assign.check


def check(self, hv, caller, vcpu):
    """Compare the pool of domain 1 with a constant."""
    refused = REAL(self, hv, caller, vcpu)
    to = hv.resolve(caller, self.to)
    if type(refused) is Effect and to.id == 1 and hv.machine.devices[self.device].bdf in hv.reserved:
        return POOL_TOO_SMALL if len(to.pool) < 64 else refused
    return refused


BUG = Bug(
    name="assigned-with-room-for-one",
    title="whether a pool suffices is asked of domain 1 in another way",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:Assign.check",
    replacement=check,
    findings=("laws/names/device.assign",),
    story=__doc__,
    trigger="""\
# hvp 1
world reserved
device.deassign(dom0, device=1)
device.assign(dom0, device=1, to=1)
""",
)
