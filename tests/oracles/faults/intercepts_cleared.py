"""HLT and ports are intercepted no more after the first HLT."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.hlt


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    vcpu.vmcs.intercepts = 0


BUG = Bug(
    name="intercepts-cleared",
    replaces="hvfuzz.hypervisor.core.exits:hlt",
    replacement=replacement,
    findings=("exits/control/hlt",),
    trigger="""\
# hvp 1
world pair
hlt(dom1)
sched.kick(dom1.1, vcpu=0)
in(dom1, port=0x3fd, size=1)
""",
)
