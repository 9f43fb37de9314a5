"""Only the secret is scrubbed, not what follows."""

from hvfuzz.bugs import Bug


def replacement(self, hfn):
    self.host.write64(hfn << 12, 0)
    self._release(hfn, 1)


BUG = Bug(
    name="free-heap-unscrubbed-data",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator.free_heap_page",
    replacement=replacement,
    findings=("host_memory/header/event.close",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=dom2)
event.close(dom1, port=0)
memory.populate(dom1, first=0x200, count=1, order=0)
""",
)
