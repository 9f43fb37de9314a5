"""A refused access is stepped over (and faults)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

ORIGINAL = exits.ept_violation


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    if vcpu.pending_fault is not None:
        exits.step_over(vcpu.vmcs)


BUG = Bug(
    name="rip-of-refused-mmio",
    replaces="hvfuzz.hypervisor.core.exits:ept_violation",
    replacement=replacement,
    findings=("exits/registers/load",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x300000, size=8)
""",
)
