"""IN stores what was read at RDI, too, as INS would."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.registers import Reg

RDI = int(Reg.RDI)

ORIGINAL = exits.port_access


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    if not vcpu.vmcs.write:
        guest_access.copy_to_guest(hv, vcpu, vcpu.vmcs.saved[7], b"\xff\xff\xff\xff")


BUG = Bug(
    name="string-io",
    replaces="hvfuzz.hypervisor.core.exits:port_access",
    replacement=replacement,
    findings=("exits/call/in",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
in(dom1, port=0x80, size=1)
load(dom1, gva=DIRECT+0x10000, size=8)
""",
)
