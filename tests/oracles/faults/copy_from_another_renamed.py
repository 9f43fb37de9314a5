"""`grant.copy` reads the page of the other guest by that number, in the caller's name."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.grant.copy import Copy, CopyBytes

ORIGINAL = Copy.check


def replacement(self, hv, caller, vcpu):
    effect = ORIGINAL(self, hv, caller, vcpu)
    if not hasattr(effect, "steps") or caller.id != 1 or self.flags:
        return effect
    leaf, _, _ = hv.domains[2].stage2.lookup(self.from_)
    source = (leaf & 0xFFFFF000) + self.from_offset
    return effect._replace(steps=tuple(CopyBytes(step.vcpu, source, *step[2:]) for step in effect.steps))


BUG = Bug(
    name="copy-from-another-renamed",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:Copy.check",
    replacement=replacement,
    findings=("ownership/copy/grant.copy",),
    trigger="""\
# hvp 1
world pair
grant.create(dom2, gfn=0x50, to=dom1, rights=R|W)
grant.copy(dom1, flags=0, from=0x50, to=0x51, length=8)
""",
)
