"""A denied frame is reported as one in use."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.hypercalls.memory.exchange import Exchange

check = Exchange.check


def replacement(self, hv, caller, vcpu):
    effect = check(self, hv, caller, vcpu)
    if type(effect) is Refused and effect.status is Status.NO_MEMORY:
        return Refused(Status.BUSY, "too few free frames")
    return effect


BUG = Bug(
    name="denied-as-busy",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:Exchange.check",
    replacement=replacement,
    findings=("specification/status/memory.exchange",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=0)
memory.exchange(dom1, gfns=[0x40], out=[0], count=1, start=0)
""",
)
