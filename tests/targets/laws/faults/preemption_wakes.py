"""A preemption point lets the vCPU that polls go on, as if its time were over."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.clock import Cost


def preempt(hv):
    """Let others run, and wake all that poll."""
    hv.machine.clock.cycles += Cost.VMENTRY + Cost.VMEXIT
    for number in list(hv.scheduler.polls):
        hv.scheduler.wake(hv.machine.vcpus[number])
    hv.observer.preemption_point()


BUG = Bug(
    name="preemption-wakes",
    title="a preemption point ends polls",
    replaces="hvfuzz.hypervisor.core.dispatch:preempt",
    replacement=preempt,
    findings=("laws/preemption/memory.decrease",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=0)
sched.poll(dom1.1, ports=[r0], count=1, timeout=0x100000)
memory.decrease(dom1, first=0x40, count=2)
""",
)
