"""A flush of stage 2 takes time for each entry of the TLB, those of other domains included.

The entries are searched one by one in software. So the time of a guest's call depends on how many pages the others have
touched: who flushes and reads the clock sees the activity of the other guests, and a pair of guests can talk.

In the trigger dom1 gives up a page, twice; between that dom2 touches pages. The second call takes longer.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.clock import Cost


def flush(self):
    """INVEPT, charged by the entries that it looks at."""
    machine = self.host.machine
    machine.clock.cycles += Cost.FLUSH + 16 * len(machine.tlb.combined)
    machine.tlb.invept(self.root)


BUG = Bug(
    name="c07-flush-time-by-cache",
    title="how long a flush takes tells what other domains have in the TLB",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush",
    replacement=flush,
    findings=("work/time/memory.decrease",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x40, count=1)
"""
    + "".join(f"load(dom2, gva=DIRECT+{0x50000 + 0x1000 * page:#x}, size=8)\n" for page in range(12))
    + "memory.decrease(dom1, first=0x41, count=1)\n",
)
