"""A call that is preempted for the sixteenth time is given up; with the usual quota, none is so long."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.effects import NO_WORK


def commit_long(hv, steps):
    """Count preemptions in four bits; 0 means that the call is new."""
    done = preempted = 0
    for step in steps:
        work = getattr(step, "work", NO_WORK)
        if done and done + work > hv.preemption_quota:
            dispatch.preempt(hv)
            done, preempted = 0, preempted + 1 & 15
            if not preempted:
                return
        done += work
        hv.observer.step(step)
        step.apply(hv)
        hv.observer.stepped(step)


BUG = Bug(
    name="given-up-after-many",
    title="a call is given up when it is preempted for the sixteenth time",
    replaces="hvfuzz.hypervisor.core.dispatch:commit_long",
    replacement=commit_long,
    findings=("laws/preemption/memory.decrease",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x40, count=32)
""",
)
