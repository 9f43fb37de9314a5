"""A leftover gfn stays in a handle."""

from hvfuzz.bugs import Bug


def replacement(domain, handle, mapping, sides):
    domain.handles[handle] = None if not sides else mapping._replace(host=bool(sides & 1), device=bool(sides & 2))


BUG = Bug(
    name="unmap-iova-zero",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:set_sides",
    replacement=replacement,
    findings=("specification/handle/grant.unmap",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R|W)
r1 = grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0x1000, flags=HOST|DEVICE)
grant.unmap(dom1, handle=r1, count=1, flags=HOST)
""",
)
