"""A call that was preempted goes on one step too far: the step at which the quota was used up is lost."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.effects import NO_WORK


def commit_long(hv, steps):
    """Take the next step after a preemption point."""
    done = 0
    for step in steps:
        work = getattr(step, "work", NO_WORK)
        if done and done + work > hv.preemption_quota:
            dispatch.preempt(hv)
            done = 0
            continue
        done += work
        hv.observer.step(step)
        step.apply(hv)
        hv.observer.stepped(step)


BUG = Bug(
    name="step-lost-at-the-border",
    title="the step after a preemption point is not made",
    replaces="hvfuzz.hypervisor.core.dispatch:commit_long",
    replacement=commit_long,
    findings=("laws/preemption/memory.populate",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=3, order=0)
cpuid(dom1, leaf=0)
""",
)
