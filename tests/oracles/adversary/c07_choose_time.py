"""The search for free frames takes time in proportion to the frames that all domains use.

The bit map is searched from its start. How long a guest's call takes tells it how much memory the others hold, page by
page with some arithmetic: a channel that no grant declares, and a fingerprint of what the others do. A guest that
fills memory also slows down everybody's calls.

In the trigger dom1 populates a page before and after dom2 has populated 64. The second call takes longer by that.
"""

from hvfuzz.bugs import Bug


def choose(self, count, *, top_down=False):
    """Choose free frames, by a search that is charged to the clock."""
    self.host.machine.clock.cycles += self.frames.count - self.available
    if count > self.available:
        return None
    chosen = []
    numbers = range(len(self.blocks))[self.lowest :]
    for number in reversed(numbers) if top_down else numbers:
        bits = self.blocks[number]
        while bits:
            if len(chosen) == count:
                return tuple(chosen)
            bit = 1 << bits.bit_length() - 1 if top_down else bits & -bits
            bits ^= bit
            chosen.append(number * 512 + bit.bit_length() - 1)
    return tuple(chosen)


BUG = Bug(
    name="c07-choose-time",
    title="how long an allocation takes tells how much memory other domains use",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.choose",
    replacement=choose,
    findings=("work/time/memory.populate",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x100, count=1, order=0)
memory.populate(dom2, first=0x100, count=64, order=0)
memory.populate(dom1, first=0x101, count=1, order=0)
""",
)
