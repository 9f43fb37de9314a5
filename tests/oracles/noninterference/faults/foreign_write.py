"""An exchange zeroes one frame too many: the page of the domain that has the next frame."""

from hvfuzz.bugs import Bug


def scrub(self, hfn, frames):
    """Zero the frames, and the one behind them."""
    self.host.fill(hfn, 0, frames)
    self.host.fill((hfn + frames) % self.frames.count, 0, 1)


BUG = Bug(
    name="foreign-write",
    title="freeing a page zeroes another domain's page",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.scrub",
    replacement=scrub,
    findings=("noninterference/memory/memory.decrease",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x100, count=1, order=0)
memory.populate(dom2, first=0x100, count=1, order=0)
store(dom2, gva=DIRECT+0x100000, size=8, value=0x2222)
memory.decrease(dom1, first=0x100, count=1)
""",
)
