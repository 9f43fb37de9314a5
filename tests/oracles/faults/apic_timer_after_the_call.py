"""The interrupts of APIC timers arrive after the hypercall, which `sched.kick` tells: the HLT has not ended yet."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.vcpu import apic
from hvfuzz.machine.cpu.vmcs import ExitReason

handle_exit = exits.handle_exit


def replacement(hv, vcpu):
    accept = apic.accept
    late = []
    if vcpu.vmcs.reason is ExitReason.VMCALL:
        apic.accept = lambda *interrupt: late.append(interrupt)
    handle_exit(hv, vcpu)
    apic.accept = accept
    for interrupt in late:
        accept(*interrupt)


BUG = Bug(
    name="apic-timer-after-the-call",
    replaces="hvfuzz.hypervisor.core.exits:handle_exit",
    replacement=replacement,
    findings=("exits/interrupt/sched.kick",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x71)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=1)
sti(dom1)
hlt(dom1)
sched.yield(dom2)
sched.kick(dom1.1, vcpu=0)
""",
)
