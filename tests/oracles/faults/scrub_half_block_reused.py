"""Half of a block that is freed is not scrubbed, and its frames are used again."""

from hvfuzz.bugs import Bug


def replacement(self, hfn):
    self.scrub(hfn, 511)
    self._release(hfn, 512)


BUG = Bug(
    name="scrub-half-block-reused",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.free_block",
    replacement=replacement,
    findings=("host_memory/scrub/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
store(dom1, gva=DIRECT+0x3ff000, size=8, value=1)
memory.decrease(dom1, first=0x200, count=512)
memory.populate(dom2, first=0x200, count=1, order=9)
""",
)
