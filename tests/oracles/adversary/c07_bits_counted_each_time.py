"""Each allocation of a frame counts the free frames of the machine again, bit by bit.

4096 turns for each frame, 2^18 for one call of 64 pages, that touch only a few integers: nothing that counts memory
accesses sees them. On a host with a terabyte a guest would keep a processor busy for minutes between two preemption
points (as in XSA-273 and other "long latency" advisories).

In the trigger dom1 populates 64 pages.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.machine.addresses import LARGE_FRAMES


def claim(self, hfn, frames):
    """Take frames out of the bit map, and count what is left."""
    bits = (1 << frames) - 1 << (hfn & LARGE_FRAMES - 1)
    blocks = self.blocks
    if not 0 <= hfn < self.frames.count or blocks[hfn >> 9] & bits != bits:
        raise HostBug(f"frame {hfn:#x} is not free")
    blocks[hfn >> 9] ^= bits
    available = 0
    for block in blocks:
        for number in range(LARGE_FRAMES):
            available += block >> number & 1
    self.available = available
    while self.lowest < len(blocks) and not blocks[self.lowest]:
        self.lowest += 1


BUG = Bug(
    name="c07-bits-counted-each-time",
    title="each frame that is allocated costs a loop over all frames of the machine",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator._claim",
    replacement=claim,
    findings=("work/turns/memory.populate",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x100, count=64, order=0)
""",
)
