"""XSA-224 / CVE-2017-10920: unmapping the host side of a grant also drops the device side's reference.

Cause: a grant mapped for the host and for devices holds one reference for each. Unmapping only the host side (a device
address of 0) left the device mapping but dropped both references, so the granter could take its page back while the
mapper's devices still reached it.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.domains import Domain, Mapping
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls.grant.mappings import set_sides
from hvfuzz.hypervisor.ipc.grants import pin, sides_of


def drop_reference(hv: Hypervisor, domain: Domain, handle: int, mapping: Mapping, side: int) -> None:
    """Drop the references of all sides, but clear only the side that was unmapped."""
    pin(hv, mapping, sides_of(mapping), -1)
    set_sides(domain, handle, mapping, sides_of(mapping) & ~side)


BUG = Bug(
    name="xsa-224",
    advisory="XSA-224, CVE-2017-10920",
    title="unmapping a grant's host side drops the device side's reference and leaves its mapping",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:drop_reference",
    replacement=drop_reference,
    findings=(
        "recount/pins/grant.unmap",
        "recount/entry/grant.unmap",
        "specification/frame/grant.unmap",
        "specification/grant/grant.unmap",
        "stale/leaf/grant.unmap",
    ),
    difficulty=3,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=2, rights=R|W)
r1 = grant.map(dom2, granter=1, ref=r0, gfn=0x400, iova=0, flags=HOST|DEVICE)
grant.unmap(dom2, handle=r1, count=1, flags=HOST)
""",
)
