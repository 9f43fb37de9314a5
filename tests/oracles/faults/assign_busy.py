"""An assigned device can be assigned again."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.device import assignment


def replacement(self, hv, caller, vcpu):
    d = hv.device(self.device)
    if d is None:
        return assignment.NO_SUCH_DEVICE
    to = hv.resolve(caller, self.to)
    return Refused(Status.NO_DOMAIN, "") if to is None else Effect((assignment.AssignDevice(self.device, to.id),))


BUG = Bug(
    name="assign-busy",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:Assign.check",
    replacement=replacement,
    findings=("specification/status/device.assign",),
    trigger="""\
# hvp 1
world pair
device.assign(dom0, device=0, to=dom2)
""",
)
