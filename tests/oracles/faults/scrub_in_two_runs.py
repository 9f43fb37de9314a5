"""A freed frame is zeroed from both ends, and a few odd bytes in its middle are left to its next owner."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import PAGE_SHIFT


def replacement(self, hfn, frames):
    for frame in range(hfn, hfn + frames):
        self.host.write(frame << PAGE_SHIFT, bytes(0x7FB))
        self.host.write((frame << PAGE_SHIFT) + 0x806, bytes(0x7FA))


BUG = Bug(
    name="scrub-in-two-runs",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.scrub",
    replacement=replacement,
    findings=("host_memory/scrub/memory.decrease",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x507fd, size=8, value=0x1122334455667788)
memory.decrease(dom1, first=0x50, count=1)
memory.populate(dom2, first=0x100, count=1, order=0)
""",
)
