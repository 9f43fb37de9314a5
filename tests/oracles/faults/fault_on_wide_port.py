"""A wide access to a port that nothing answers at gives #GP."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.machine.cpu.faults import GuestFault, Vector

ORIGINAL = exits.port_access


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    if vcpu.vmcs.width == 4 and vcpu.vmcs.port == 0xCF8:
        vcpu.pending_fault = GuestFault(Vector.GP, 0)


BUG = Bug(
    name="fault-on-wide-port",
    replaces="hvfuzz.hypervisor.core.exits:port_access",
    replacement=replacement,
    findings=("exits/fault/in",),
    trigger="""\
# hvp 1
world pair
in(dom1, port=0xcf8, size=4)
""",
)
