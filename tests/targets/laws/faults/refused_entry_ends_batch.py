"""After an entry that is refused, a multicall makes no further calls, and says that they succeeded."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.hypercalls.multicall import OUTCOME
from hvfuzz.hypervisor.memory import guest_access


def apply(self, hv):
    """Count what is refused as an end."""
    vcpu = hv.machine.vcpus[self.vcpu]
    word, result = 0, 0
    if self.batch.succeeded >= 0:
        status, result = dispatch.call(hv, vcpu, self.number, self.args)
        word = status.word
        self.batch.succeeded = self.batch.succeeded + 1 if not word else -1
    guest_access.copy_to_guest(hv, vcpu, self.outcome, OUTCOME.pack(word, result))


BUG = Bug(
    name="refused-entry-ends-batch",
    title="a refused entry ends the multicall",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=apply,
    findings=("laws/multicall/multicall",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=2)
event.close(dom1, port=5)
event.alloc(dom1, remote=2)
""",
)
