"""The count that is returned is one too low for long ranges."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.memory import reservation

ORIGINAL = reservation.Decrease.check


def replacement(self, hv, caller, vcpu):
    e = ORIGINAL(self, hv, caller, vcpu)
    return e if isinstance(e, Refused) or self.count < 65 else Effect(e.steps, self.count - 1)


BUG = Bug(
    name="result-partial",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:Decrease.check",
    replacement=replacement,
    findings=("specification/result/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x60, count=65)
""",
)
