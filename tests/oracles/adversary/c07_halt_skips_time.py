"""HLT of a vCPU moves the clock to the next deadline of its domain's timer.

An idle processor may skip time; but the other vCPUs are not idle. A guest moves the clock of the machine by as much as
it writes to a register: the deadlines of all domains pass, their leases end, their polls time out at once, and their
counters jump.

In the trigger dom1 arms its timer for 2^30 cycles and halts, while dom2 polls for half of that. dom2's next clock read
is in the far future.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import step_over
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.hypervisor.vcpu import apic


def hlt(hv, vcpu):
    """Halt, and sleep until the domain's timer expires."""
    if not event_channels.any_pending(hv.domains[vcpu.domain]) and apic.pending(hv, vcpu) < 0:
        hv.scheduler.halt(vcpu)
        timer = hv.timers.get(vcpu.domain)
        if timer is not None:
            clock = hv.machine.clock
            clock.cycles = max(clock.cycles, timer.deadline)
    step_over(vcpu.vmcs)


BUG = Bug(
    name="c07-halt-skips-time",
    title="a guest that halts moves everybody's clock to its own deadline",
    replaces="hvfuzz.hypervisor.core.exits:hlt",
    replacement=hlt,
    findings=("exits/clock/hlt",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom2, remote=dom1)
sched.poll(dom2.1, ports=[r0], count=1, timeout=0x20000000)
mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=0x40000000)
hlt(dom1)
time.clock_read(dom2)
pause(dom2.1)
""",
)
