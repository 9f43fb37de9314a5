"""The outcome of the second and later entries of a multicall is written to the entry before."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.multicall import ENTRY, OUTCOME, run_entry
from hvfuzz.hypervisor.memory import guest_access


def apply(self, hv):
    """Take the place of the outcome from the address of the entry before, but for the first."""
    vcpu = hv.machine.vcpus[self.vcpu]
    status, result = run_entry(hv, vcpu, self.number, self.args)
    at = self.outcome - ENTRY.size if self.outcome & 0x3FF != 0x10 else self.outcome
    guest_access.copy_to_guest(hv, vcpu, at, OUTCOME.pack(status.word, result))
    self.batch.succeeded += status == 0


BUG = Bug(
    name="outcome-of-neighbour",
    title="an entry's outcome is written to the entry before",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=apply,
    findings=("laws/multicall/sched.yield",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=3)
sched.yield(dom1)
console.write(dom1, text=[0x41, 0x42], length=2)
event.alloc(dom1, remote=9)
""",
)
