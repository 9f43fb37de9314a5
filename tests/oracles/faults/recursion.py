"""A multicall may be in a multicall."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch


def replacement(hv, vcpu, number, args):
    return dispatch.call(hv, vcpu, number, args)


BUG = Bug(
    name="recursion",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:run_entry",
    replacement=replacement,
    findings=("fetch/asked/multicall",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40000, size=8, value=0x70)
store(dom1, gva=DIRECT+0x40008, size=8, value=0xffff880000041000)
store(dom1, gva=DIRECT+0x41000, size=8, value=0x20018)
multicall(dom1, entries=DIRECT+0x40000, count=1)
""",
)
