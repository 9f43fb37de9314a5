"""A refused call clears a grant entry's pins of another domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.hypercalls import event

ORIGINAL = event.Send.check


def replacement(self, hv, caller, vcpu):
    e = ORIGINAL(self, hv, caller, vcpu)
    g = hv.domains[2].grants[0]
    if isinstance(e, Refused) and g is not None:
        hv.domains[2].grants[0] = g._replace(host_pins=0, device_pins=0)
    return e


BUG = Bug(
    name="grant-silent",
    replaces="hvfuzz.hypervisor.hypercalls.event:Send.check",
    replacement=replacement,
    findings=("recount/entry/event.send",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R|W)
grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0, flags=HOST)
event.send(dom1, port=9)
""",
)
