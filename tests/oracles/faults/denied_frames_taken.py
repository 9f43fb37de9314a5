"""A denied frame is taken from the other end of memory."""

from hvfuzz.bugs import Bug


def replacement(self, count):
    shortage = self.host.machine.shortage
    return shortage.at >= 0 and shortage.denies(count) and count > 8


BUG = Bug(
    name="denied-frames-taken",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.denied",
    replacement=replacement,
    findings=("recount/denied/memory.exchange",),
    trigger="""\
# hvp 1
world pair
deny(dom1, request=0)
memory.exchange(dom1, gfns=[0x40], out=[0], count=1, start=0)
""",
)
