"""A mapping for devices that is released leaves its count in the grant entry."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.grant.mappings import set_sides
from hvfuzz.hypervisor.ipc.grants import DEVICE, pin, sides_of


def drop_reference(hv, domain, handle, mapping, side):
    """Unpin the host side only."""
    if side != DEVICE:
        pin(hv, mapping, side, -1)
    set_sides(domain, handle, mapping, sides_of(mapping) & ~side)


BUG = Bug(
    name="pins-left-on-unmap",
    title="the count of a device mapping outlives it",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:drop_reference",
    replacement=drop_reference,
    findings=("laws/undo/grant.revoke",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0)
""",
)
