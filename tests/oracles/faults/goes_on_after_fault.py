"""An outcome that cannot be written stops nothing."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls import multicall
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv):
    batch = self.batch
    vcpu = hv.machine.vcpus[self.vcpu]
    status, result = multicall.run_entry(hv, vcpu, self.number, self.args)
    if not guest_access.copy_to_guest(hv, vcpu, self.outcome, multicall.OUTCOME.pack(status.word, result)):
        batch.faulted = True
    elif status is Status.OK:
        batch.succeeded += 1


BUG = Bug(
    name="goes-on-after-fault",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=replacement,
    findings=("specification/nested/multicall",),
    trigger="""\
# hvp 1
world pair
tlb(dom1, capacity=0)
race 3: pte(dom1.1, gva=DIRECT+0x10000, level=1, entry=0x10021)
multicall(dom1, count=2)
  sched.yield(dom1)
  sched.yield(dom1)
""",
)
