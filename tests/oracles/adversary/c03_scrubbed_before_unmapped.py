"""A page that is given up is scrubbed while it is still mapped, then unmapped, then freed.

Another vCPU of the domain writes to the page after the scrub. The frame is free with content of its last owner's
choice: the next owner gets a message, or a secret, instead of zeroes. The content of each free frame is right unless
somebody uses the moment.

In the trigger dom1 gives up two pages.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug


def apply(self, hv):
    """Scrub, unmap, free."""
    hv.allocator.scrub(self.hfn, 1)
    if not hv.domains[self.domain].stage2.unmap(self.gfn):
        raise HostBug("no table page for a split in a checked removal")
    hv.allocator._release(self.hfn, 1)


BUG = Bug(
    name="c03-scrubbed-before-unmapped",
    title="a page is scrubbed while its owner can still write to it",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:RemovePage.apply",
    replacement=apply,
    story=__doc__,
    findings=("stale/leaf/memory.decrease",),
    trigger="""\
# hvp 1
world pair
store(dom1.1, gva=DIRECT+0x40000, size=8, value=0x1111)
memory.decrease(dom1, first=0x40, count=2)
""",
)
