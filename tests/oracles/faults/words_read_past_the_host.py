"""The host reads a neighbouring frame word through the view of all memory, past its own accessors."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostFault


def replacement(self, hpa):
    self.work.units += 1
    if hpa & ((1 << 63) | 7):
        raise HostFault(f"word read at {hpa:#x}")
    if self.on_access is not None:
        self.on_access(hpa, 8, False)
    words = self.machine.memory.words
    return words[hpa >> 3] | words[hpa >> 3 ^ 1] & 0


BUG = Bug(
    name="words-read-past-the-host",
    replaces="hvfuzz.hypervisor.core.host:HostMemory.read64",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x50, count=1)
""",
)
