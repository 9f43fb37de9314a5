"""One frame too many is scrubbed, by the host's own accessor."""

from hvfuzz.bugs import Bug


def replacement(self, hfn, frames_):
    self.host.fill(hfn, 0, frames_ + 1)


BUG = Bug(
    name="scrub-host-neighbour",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.scrub",
    replacement=replacement,
    findings=("host_memory/guest/memory.decrease",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x61000, size=8, value=0x99)
memory.decrease(dom1, first=0x60, count=1)
load(dom1, gva=DIRECT+0x61000, size=8)
""",
)
