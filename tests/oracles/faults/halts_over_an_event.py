"""HLT halts although an event is pending, which came before it: the vCPU sleeps for ever."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits


def replacement(hv, vcpu):
    hv.scheduler.halt(vcpu)
    exits.step_over(vcpu.vmcs)


BUG = Bug(
    name="halts-over-an-event",
    replaces="hvfuzz.hypervisor.core.exits:hlt",
    replacement=replacement,
    findings=("specification/change/hlt",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom2, remote=dom1)
r1 = event.bind(dom1, remote=dom2, port=r0)
event.send(dom1, port=r1)
hlt(dom2)
""",
)
