"""Long effects are applied in one go."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch


def replacement(hv, steps):
    dispatch.commit(hv, steps)


BUG = Bug(
    name="no-preemption-decrease",
    replaces="hvfuzz.hypervisor.core.dispatch:commit_long",
    replacement=replacement,
    findings=("work/preemption/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=2, order=9)
memory.decrease(dom1, first=0x201, count=512)
""",
)
