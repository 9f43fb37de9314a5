"""A multicall keeps the struct of the last entry, for further entries that make the same call."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.hypercalls.multicall import OUTCOME
from hvfuzz.hypervisor.memory import guest_access

LAST = [0, 0]


def apply(self, hv):
    """Look for the struct where it was for the last entry, if that had the same number."""
    vcpu = hv.machine.vcpus[self.vcpu]
    if not self.batch.succeeded or LAST[0] != self.number:
        LAST[:] = self.number, self.args
    status, result = dispatch.call(hv, vcpu, *LAST)
    guest_access.copy_to_guest(hv, vcpu, self.outcome, OUTCOME.pack(status.word, result))
    self.batch.succeeded += status == 0


BUG = Bug(
    name="arguments-of-last-entry",
    title="a multicall keeps the struct of the last entry",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=apply,
    findings=("laws/multicall/multicall",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=2)
console.write(dom1, text=[0x41, 0x42], length=2)
console.write(dom1, text=[0x43, 0x44], length=2)
""",
)
