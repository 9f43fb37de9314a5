"""Only the status of a refused entry is written: its result word keeps what was there."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls import multicall
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv):
    batch = self.batch
    if batch.faulted:
        return
    vcpu = hv.machine.vcpus[self.vcpu]
    status, result = multicall.run_entry(hv, vcpu, self.number, self.args)
    data = multicall.OUTCOME.pack(status.word, result)
    if not guest_access.copy_to_guest(hv, vcpu, self.outcome, data if status is Status.OK else data[:8]):
        batch.faulted = True
    elif status is Status.OK:
        batch.succeeded += 1


BUG = Bug(
    name="outcome-leftover",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=replacement,
    findings=("specification/written/multicall",),
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=1)
  event.send(dom1, port=3)
""",
)
