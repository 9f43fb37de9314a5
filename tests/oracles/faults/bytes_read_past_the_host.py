"""The host reads a neighbouring word through the bytes of all memory, past its own accessors."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostFault


def replacement(self, hpa):
    self.work.units += 1
    if hpa & ((1 << 63) | 7):
        raise HostFault(f"word read at {hpa:#x}")
    if self.on_access is not None:
        self.on_access(hpa, 8, False)
    data = self.machine.memory.data
    int.from_bytes(data[hpa ^ 8 : (hpa ^ 8) + 8], "little")
    return int.from_bytes(data[hpa : hpa + 8], "little")


BUG = Bug(
    name="bytes-read-past-the-host",
    replaces="hvfuzz.hypervisor.core.host:HostMemory.read64",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x50, count=1)
""",
)
