"""Domain 1 may make privileged calls, as domain 0 may."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.dispatch import NOT_YET, UNKNOWN, UNPRIVILEGED, USER_MODE


def entitlement(vcpu, caller, declaration):
    """Take every domain below 2 for the control domain."""
    if vcpu.cpl:
        return USER_MODE
    if declaration is None:
        return UNKNOWN
    if declaration.since > caller.version:
        return NOT_YET
    return UNPRIVILEGED if declaration.privileged and caller.id > 1 else None


BUG = Bug(
    name="privilege-of-the-first-guest",
    title="domain 1 has the privilege of domain 0",
    replaces="hvfuzz.hypervisor.core.dispatch:entitlement",
    replacement=entitlement,
    findings=("laws/names/device.deassign",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
device.deassign(dom1, device=3)
""",
)
