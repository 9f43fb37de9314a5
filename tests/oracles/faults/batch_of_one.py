"""Calls that came with version 2 are not made from a batch."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls import multicall

ORIGINAL = multicall.run_entry


def replacement(hv, vcpu, number, args):
    if number in (0x13, 0x65):
        return Status.NO_CALL, 0
    if number == 0x10:
        return Status.FAULT, 0
    return ORIGINAL(hv, vcpu, number, args)


BUG = Bug(
    name="batch-of-one",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:run_entry",
    replacement=replacement,
    findings=("specification/nested/multicall",),
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=2)
  memory.exchange(dom1, gfns=[0x60], out=[0], count=1, start=0)
  memory.populate(dom1, first=0x200, count=1, order=0)
""",
)
