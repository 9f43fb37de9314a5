"""A yield sets back the caller's own time-stamp counter by the time slice: "it did not run, so it need not notice"."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.scheduler import Scheduler

ORIGINAL = Scheduler.end_slice


def end_slice(self):
    ORIGINAL(self)
    EndedFor.vcpu.vmcs.tsc_offset = EndedFor.vcpu.vmcs.tsc_offset - 16384 & (1 << 64) - 1


class EndedFor:
    """The vCPU that yields."""

    vcpu = None


def apply(self, hv):
    EndedFor.vcpu = next(each for each in hv.machine.vcpus if each.in_root)
    end_slice(hv.scheduler)


BUG = Bug(
    name="own-tsc-in-a-call",
    replaces="hvfuzz.hypervisor.hypercalls.sched:EndSlice.apply",
    replacement=apply,
    findings=("exits/control/multicall",),
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=2)
  sched.yield(dom1)
  sched.yield(dom1)
""",
)
