"""grant.copy does not look for whom the grant is."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.ipc import grants


def replacement(hv, caller, domain, ref, right):
    granter = hv.resolve(caller, domain)
    if granter is None:
        return Refused(Status.NO_DOMAIN, "")
    entry = grants.live_entry(granter, ref)
    if entry is None:
        return Refused(Status.NO_GRANT, "")
    if not entry.rights & right:
        return Refused(Status.NOT_PERMITTED, "")
    return entry.frame


BUG = Bug(
    name="copy-granted-any",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:granted_frame",
    replacement=replacement,
    findings=("ownership/copy/grant.copy",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom0, rights=R|W)
grant.copy(dom1, flags=SOURCE_REF, from_domain=dom2, from=r0, to=0x41, length=8)
""",
)
