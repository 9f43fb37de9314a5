"""`grant.copy` uses entry 0 of the granter, whichever entry the call names."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.grant import copy

ORIGINAL = copy.granted_frame


def replacement(hv, caller, domain, ref, right):
    return ORIGINAL(hv, caller, domain, 0, right)


BUG = Bug(
    name="copy-of-another-grant",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:granted_frame",
    replacement=replacement,
    findings=("ownership/copy/grant.copy",),
    trigger="""\
# hvp 1
world pair
grant.create(dom2, gfn=0x50, to=dom1, rights=R|W)
r0 = grant.create(dom2, gfn=0x51, to=dom1, rights=R|W)
grant.copy(dom1, flags=SOURCE_REF, from_domain=dom2, from=r0, to=0x51, length=8)
""",
)
