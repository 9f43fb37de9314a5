"""Freed frames keep their contents: the next owner reads what another domain left."""

from hvfuzz.bugs import Bug


def scrub(self, hfn, frames):
    """Leave the frames as they are."""


BUG = Bug(
    name="not-scrubbed",
    title="freed frames are not zeroed",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.scrub",
    replacement=scrub,
    findings=("noninterference/memory/memory.populate",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom2, gva=DIRECT+0x50000, size=8, value=0x5ec2e7)
memory.decrease(dom2, first=0x50, count=1)
memory.populate(dom1, first=0x100, count=1, order=0)
""",
)
