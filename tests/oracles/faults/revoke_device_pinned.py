"""Device pins are not looked at."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls.grant import entries
from hvfuzz.hypervisor.ipc import grants


def replacement(self, hv, caller, vcpu):
    entry = grants.live_entry(caller, self.ref)
    if entry is None:
        return Refused(Status.NO_GRANT, "")
    if entry.host_pins:
        return Refused(Status.BUSY, "")
    return Effect((entries.RevokeGrant(caller.id, self.ref),))


BUG = Bug(
    name="revoke-device-pinned",
    replaces="hvfuzz.hypervisor.hypercalls.grant.entries:Revoke.check",
    replacement=replacement,
    findings=("ownership/foreign/grant.revoke",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R)
grant.map(dom1, granter=dom2, ref=r0, gfn=0, iova=0x1000, flags=DEVICE|READONLY)
grant.revoke(dom2, ref=r0)
""",
)
