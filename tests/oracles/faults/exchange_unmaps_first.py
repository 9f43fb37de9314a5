"""A page that is exchanged is absent for a moment: a device or another vCPU faults at a page that was always there."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import ADDRESS, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self, gfn, hfn):
    entry, level, address = self.lookup(gfn)
    self.host.write64(address, 0)
    self.flush()
    self.frames.add_map(hfn)
    self.host.write64(address, entry & ~ADDRESS | hfn << PAGE_SHIFT)
    self.frames.drop_map(leaf_frame(entry, level, gfn))
    return True


BUG = Bug(
    name="exchange-unmaps-first",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.replace",
    replacement=replacement,
    findings=("ownership/moment/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.exchange(dom1, gfns=[0x40], out=[0], count=1)
""",
)
