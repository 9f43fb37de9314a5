"""A page that is exchanged is not flushed: its old frame is freed while any processor may still use it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import ADDRESS, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self, gfn, hfn):
    entry, level, address = self.lookup(gfn)
    self.frames.add_map(hfn)
    self.host.write64(address, entry & ~ADDRESS | hfn << PAGE_SHIFT)
    self.frames.drop_map(leaf_frame(entry, level, gfn))
    return True


BUG = Bug(
    name="exchange-not-flushed",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.replace",
    replacement=replacement,
    findings=("stale/unflushed/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.exchange(dom1, gfns=[0x40], out=[0], count=1)
""",
)
