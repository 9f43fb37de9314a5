"""A freed frame is scrubbed with the size of the pointer to it: `memset(page, 0, sizeof(page))`.

Only the first word of each run of frames is cleared. The next owner of the frame reads what the last owner had in it.

In the trigger dom1 gives up a page with its secret in the last word, and dom2, which gets the frame, reads bytes from
the middle of that word.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import PAGE_SHIFT


def scrub(self, hfn, frames):
    """Zero the frames."""
    page = hfn << PAGE_SHIFT
    self.host.write(page, bytes(8 * frames))


BUG = Bug(
    name="c02-scrub-sizeof-pointer",
    title="of a freed frame only the first eight bytes are scrubbed",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.scrub",
    replacement=scrub,
    findings=("host_memory/scrub/memory.decrease",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x30, count=1)
memory.populate(dom2, first=0x100, count=1, order=0)
load(dom2, gva=DIRECT+0x100ff9, size=4)
""",
)
