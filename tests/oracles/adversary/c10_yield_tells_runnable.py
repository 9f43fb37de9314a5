"""`sched.yield` returns at once if no other vCPU can run.

A scheduler that does not waste time, and a channel: whether the clock has moved tells a guest whether the vCPUs of the
others wait or run. The contract has each yield take one slice, always.

In the trigger a yield of dom1 takes a slice while a vCPU of dom2 can run, and no time when that one has blocked.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.processor_state import RunState


def apply(self, hv):
    """End the slice if another vCPU can use it."""
    if sum(vcpu.runnable == RunState.RUNNABLE for vcpu in hv.machine.vcpus) > 1:
        hv.scheduler.end_slice()


BUG = Bug(
    name="c10-yield-tells-runnable",
    title="how long a yield takes tells whether other domains are idle",
    replaces="hvfuzz.hypervisor.hypercalls.sched:EndSlice.apply",
    replacement=apply,
    findings=("specification/time/sched.yield",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
sched.block(dom0)
sched.block(dom1.1)
sched.block(dom2.1)
sched.yield(dom1)
time.clock_read(dom1)
sched.block(dom2)
sched.yield(dom1)
time.clock_read(dom1)
""",
)
