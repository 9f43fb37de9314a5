"""A call that was preempted makes its last step again before it goes on."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.effects import NO_WORK


def commit_long(hv, steps):
    """Go on with the step before."""
    done = 0
    last = None
    for step in steps:
        work = getattr(step, "work", NO_WORK)
        again = ()
        if done and done + work > hv.preemption_quota:
            dispatch.preempt(hv)
            done, again = 0, (last,)
        done += work
        for each in (*again, step):
            hv.observer.step(each)
            each.apply(hv)
            hv.observer.stepped(each)
        last = step


BUG = Bug(
    name="step-repeated-at-the-border",
    title="the step before a preemption point is made twice",
    replaces="hvfuzz.hypervisor.core.dispatch:commit_long",
    replacement=commit_long,
    findings=("laws/preemption/memory.decrease",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x40, count=2)
""",
)
