"""A reserve of 64 frames that no call can have."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import allocator

ORIGINAL = allocator.Allocator.choose


def replacement(self, count, *, top_down=False):
    return None if count + 64 > self.available else ORIGINAL(self, count, top_down=top_down)


BUG = Bug(
    name="reserve",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.choose",
    replacement=replacement,
    findings=("specification/status/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=2, order=9)
memory.populate(dom1, first=0x600, count=1, order=9)
memory.populate(dom2, first=0x200, count=2, order=9)
memory.populate(dom2, first=0x600, count=1, order=9)
memory.populate(dom0, first=0x40, count=64, order=0)
memory.populate(dom0, first=0x80, count=64, order=0)
memory.populate(dom0, first=0xc0, count=64, order=0)
memory.populate(dom0, first=0x100, count=64, order=0)
memory.populate(dom0, first=0x140, count=64, order=0)
memory.populate(dom0, first=0x180, count=32, order=0)
""",
)
