"""A batch in which one entry failed ends as FAULT."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug


def replacement(self, hv):
    return (Status.FAULT, 0) if self.faulted or self.succeeded != 2 else (Status.OK, self.succeeded)


BUG = Bug(
    name="spurious-outcome-fault",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:Batch.finish",
    replacement=replacement,
    findings=("specification/status/multicall",),
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=2)
  sched.yield(dom1)
  event.send(dom1, port=9)
""",
)
