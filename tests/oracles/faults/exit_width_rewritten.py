"""A wide IN is handled as a narrow one, and the width in the exit information is changed to fit."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.port_access


def replacement(hv, vcpu):
    vcpu.vmcs.width = 1
    ORIGINAL(hv, vcpu)


BUG = Bug(
    name="exit-width-rewritten",
    replaces="hvfuzz.hypervisor.core.exits:port_access",
    replacement=replacement,
    findings=("exits/registers/in",),
    trigger="""\
# hvp 1
world pair
in(dom1, port=0x60, size=4)
""",
)
