"""An event wakes a vCPU, which resumes with the EFER of the vCPU that has sent it, here of another domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu.scheduler import Scheduler

ORIGINAL = Scheduler.wake


def wake(self, vcpu):
    woken = ORIGINAL(self, vcpu)
    running = next((each for each in vcpu.machine.vcpus if each.in_root), None)
    if woken and running is not None and running is not vcpu:
        vcpu.efer = running.efer
    return woken


BUG = Bug(
    name="efer-of-the-sender",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.wake",
    replacement=wake,
    findings=("principal/state/multicall",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
wrmsr(dom2, index=EFER, value=0x100)
sched.block(dom1.1)
multicall(dom2, count=2)
  event.send(dom2, port=r1)
  sched.yield(dom2)
""",
)
