"""A large page that is given back keeps its counts until its frames are free, and loses them with the frame words."""

from hvfuzz.bugs import Bug


def replacement(self, gfn):
    _, _, address = self.lookup(gfn)
    self.host.write64(address, 0)
    self.flush()


BUG = Bug(
    name="block-freed-while-counted",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.unmap_block",
    replacement=replacement,
    findings=("recount/free/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.decrease(dom1, first=0x200, count=512)
""",
)
