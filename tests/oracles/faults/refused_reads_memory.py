"""Privileged calls are let through for domain 1's second vCPU."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.entitlement


def replacement(vcpu, caller, declaration):
    if vcpu.index == 1 and declaration is not None and declaration.privileged:
        return None
    return ORIGINAL(vcpu, caller, declaration)


BUG = Bug(
    name="refused-reads-memory",
    replaces="hvfuzz.hypervisor.core.dispatch:entitlement",
    replacement=replacement,
    findings=("fetch/privilege/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom1.1, device=0)
""",
)
