"""The outcomes of a multicall are written through the vCPU that runs next.

The pointer to the current vCPU is read again after the entry has run, when the scheduler has moved on. The last vCPU
of one guest is followed by the first of the next: status and result are written to the other guest's memory, at an
address of the caller's choice. The caller chooses the result, too (a limit, a port, a version).

In the trigger vCPU 1 of dom1 makes a batch; the outcome appears in the memory of dom2.
"""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.multicall import OUTCOME, run_entry
from hvfuzz.hypervisor.memory import guest_access


def apply(self, hv):
    """Run the entry; write its outcome by way of the next vCPU."""
    batch = self.batch
    if batch.faulted:
        return
    vcpus = hv.machine.vcpus
    status, result = run_entry(hv, vcpus[self.vcpu], self.number, self.args)
    current = vcpus[(self.vcpu + 1) % len(vcpus)]
    if not guest_access.copy_to_guest(hv, current, self.outcome, OUTCOME.pack(status.word, result)):
        batch.faulted = True
    elif status is Status.OK:
        batch.succeeded += 1


BUG = Bug(
    name="c01-outcome-by-next-vcpu",
    title="the outcome of a batched call is written to the next domain's memory",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=apply,
    findings=("principal/translation/multicall",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
multicall(dom1.1, count=1)
  discovery.limits(dom1.1, what=POOL)
load(dom2, gva=DIRECT+0x11418, size=8)
load(dom1, gva=DIRECT+0x11418, size=8)
""",
)
