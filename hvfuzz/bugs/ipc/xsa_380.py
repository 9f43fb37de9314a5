"""XSA-380 / CVE-2021-28698 (the unmap half): many grant mappings are released without a preemption point.

Cause: for each grant mapping released, Xen searched all mappings of the domain for others of the same frame, and it
released large numbers of mappings without a preemption point. A domain could keep a processor busy for minutes.

Scaled: a domain has 64 handles here, while Xen's default allows half a million. Each search is repeated PASSES times,
as if the table had 256 entries; the oracle's bound is scaled in the same way.
"""

from typing import NamedTuple

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.domains import Domain, Mapping
from hvfuzz.hypervisor.core.effects import NO_WORK, Step
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls.grant.mappings import drop_reference, unmap_side
from hvfuzz.hypervisor.ipc.grants import DEVICE, HOST, sides_of

PASSES = 4


class ReleaseAll(NamedTuple):
    """Step that releases the sides in `flags` of all `handles` of `domain` at once."""

    domain: int
    handles: tuple[int, ...]
    flags: int

    @property
    def work(self) -> int:
        """The cost that the faulty code assumes."""
        return NO_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Release the mappings, with a linear search for each."""
        domain = hv.domains[self.domain]
        for handle in self.handles:
            for side in (HOST, DEVICE):
                mapping = domain.handles[handle]
                if mapping is None or not side & self.flags & sides_of(mapping):
                    continue
                for _ in range(PASSES):
                    others_of(domain, mapping)
                unmap_side(domain, mapping, side)
                drop_reference(hv, domain, handle, mapping, side)


def others_of(domain: Domain, mapping: Mapping) -> int:
    """Count the other mappings of the same frame by linear search."""
    count = 0
    for handle in range(len(domain.handles)):
        other = domain.handles[handle]
        if other is not None and other is not mapping and other.frame == mapping.frame:
            count += 1
    return count


def release_steps(domain: Domain, mappings: list[tuple[int, Mapping]], flags: int) -> tuple[Step, ...]:
    """Release all mappings in one step."""
    return (ReleaseAll(domain.id, tuple(handle for handle, _ in mappings), flags),)


BUG = Bug(
    name="xsa-380",
    advisory="XSA-380, CVE-2021-28698",
    title="many grant mappings are released without a preemption point, each with a linear search",
    replaces="hvfuzz.hypervisor.hypercalls.grant.mappings:release_steps",
    replacement=release_steps,
    findings=("work/preemption/grant.unmap",),
    difficulty=3,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=2, rights=R|W)
"""
    + "".join(
        f"r{number + 1} = grant.map(dom2, granter=1, ref=r0, gfn={0x400 + number:#x}, iova=0, flags=HOST)\n"
        for number in range(8)
    )
    + "grant.unmap(dom2, handle=r1, count=8, flags=HOST)\n",
)
