"""The fresh page gets the old content: it should be zeroed."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.frames import FrameState


def replacement(self, hv):
    hv.allocator.take(self.new, self.domain, FrameState.OWNED)
    hv.domains[self.domain].stage2.replace(self.gfn, self.new)
    hv.machine.memory.copy(self.new << 12, self.old << 12, 4096)
    hv.allocator.free_page(self.old)


BUG = Bug(
    name="exchange-keeps-content",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:ExchangePage.apply",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.exchange",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x60000, size=8, value=0x77)
memory.exchange(dom1, gfns=[0x60], out=[0], count=1, start=0)
load(dom1, gva=DIRECT+0x60000, size=8)
""",
)
