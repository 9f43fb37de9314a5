"""What a domain sends is appended to the control domain's console."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.port_access


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    if vcpu.vmcs.write and vcpu.vmcs.port == 0x3F8:
        hv.domains[0].console += bytes([vcpu.vmcs.saved[0] & 255])


BUG = Bug(
    name="uart-to-log",
    replaces="hvfuzz.hypervisor.core.exits:port_access",
    replacement=replacement,
    findings=("specification/change/out",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3f8, size=1, value=65)
""",
)
