"""A multicall sets the table pages of all other domains aside, in case that an entry needs them."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.hypercalls.multicall import OUTCOME
from hvfuzz.hypervisor.memory import guest_access


def apply(self, hv):
    """Make the call while the other pools are empty."""
    vcpu = hv.machine.vcpus[self.vcpu]
    others = [domain.pool for domain in hv.domains if domain.id != vcpu.domain]
    aside = [pool[:] for pool in others]
    for pool in others:
        pool.clear()
    status, result = dispatch.call(hv, vcpu, self.number, self.args)
    for pool, pages in zip(others, aside, strict=True):
        pool += pages
    guest_access.copy_to_guest(hv, vcpu, self.outcome, OUTCOME.pack(status.word, result))
    self.batch.succeeded += status == 0


BUG = Bug(
    name="pool-set-aside",
    title="an entry of a multicall finds the pools of other domains empty",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.apply",
    replacement=apply,
    findings=("laws/multicall/multicall",),
    story=__doc__,
    trigger="""\
# hvp 1
world reserved
device.deassign(dom0, device=1)
multicall(dom0, count=1)
device.assign(dom0, device=1, to=2)
""",
)
