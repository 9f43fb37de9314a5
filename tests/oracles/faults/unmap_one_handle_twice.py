"""HOST is released whatever the flags say."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.grant.mappings import ReleaseSide
from hvfuzz.hypervisor.ipc import grants


def replacement(domain, mappings, flags):
    return tuple(
        ReleaseSide(domain.id, h, s) for h, m in mappings for s in (1, 2) if s & (flags | 1) & grants.sides_of(m)
    )


BUG = Bug(
    name="unmap-one-handle-twice",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:release_steps",
    replacement=replacement,
    findings=("specification/frame/grant.unmap",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R|W)
r1 = grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0x1000, flags=HOST|DEVICE)
grant.unmap(dom1, handle=r1, count=1, flags=DEVICE)
""",
)
