"""A large page that is given up as a whole is not flushed.

The path for small pages flushes; the one for large pages was written later. The 512 frames are scrubbed and freed
while every processor that has used them may go on: the last owner reads and writes what the next one puts there.

In the trigger dom1 has touched no page of the 2 MiB when it gives them up: nothing is cached.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory.table_tree import ADDRESS, BLOCK_LEVEL, RIGHTS
from hvfuzz.machine.addresses import PAGE_SHIFT


def unmap_block(self, gfn):
    """Unmap a large leaf."""
    entry, level, address = self.lookup(gfn)
    if level != BLOCK_LEVEL or not entry & RIGHTS:
        raise HostBug(f"no large leaf at gfn {gfn:#x}")
    self.host.write64(address, 0)
    self.frames.drop_block_map((entry & ADDRESS) >> PAGE_SHIFT)
    self.trim(gfn, address)


BUG = Bug(
    name="c08-block-not-flushed",
    title="a large page is freed without a flush",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.unmap_block",
    replacement=unmap_block,
    story=__doc__,
    findings=("stale/unflushed/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.decrease(dom1, first=0x200, count=512)
""",
)
