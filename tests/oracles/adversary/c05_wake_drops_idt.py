"""A vCPU that is woken has lost its IDT: the table is reloaded from a context that was never saved.

Who wakes a vCPU of another domain by an event takes its exception handlers away. The next fault there finds no table:
on a processor that is a triple fault, so one guest kills a vCPU of another (here the exception is not delivered).

In the trigger dom2 sends an event from within a multicall; the vCPU of dom1 that waits for it has a table before, and
its INT afterwards is #GP.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.processor_state import RunState


def wake(self, vcpu):
    """Make `vcpu` runnable, with the IDT register as at reset."""
    if not self.waits(vcpu):
        return False
    vcpu.runnable = RunState.RUNNABLE
    self.polls.pop(vcpu.id, None)
    if not vcpu.in_root:
        vcpu.idtr = (0, 0)
    return True


BUG = Bug(
    name="c05-wake-drops-idt",
    title="a vCPU that another domain's event wakes has lost its IDT",
    replaces="hvfuzz.hypervisor.vcpu.scheduler:Scheduler.wake",
    replacement=wake,
    findings=("principal/state/multicall",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
store(dom1, gva=DIRECT+0x50800, size=8, value=0xee000010a000)
store(dom1, gva=DIRECT+0x50808, size=8, value=0xffff8800)
lidt(dom1.1, gva=DIRECT+0x50000, limit=4095)
sched.block(dom1.1)
multicall(dom2, count=2)
  event.send(dom2, port=r1)
  sched.yield(dom2)
int(dom1.1, vector=128)
""",
)
