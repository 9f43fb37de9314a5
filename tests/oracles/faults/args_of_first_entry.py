"""Every entry runs with the struct of the first."""

import struct

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls import multicall
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv, caller, vcpu):
    if not 0 < self.count <= 16:
        return Refused(Status.INVALID, "number of entries")
    size = self.count * 32
    array = guest_access.copy_from_guest(hv, vcpu, self.entries, size)
    if array is None:
        return Refused(Status.FAULT, "entries unreadable")
    if not guest_access.writable(hv, vcpu, self.entries, size):
        return Refused(Status.FAULT, "entries not writable")
    batch = multicall.Batch()
    entries = list(struct.iter_unpack("<4Q", array))
    return Effect(
        tuple(
            multicall.RunEntry(batch, vcpu.id, n, entries[0][1], self.entries + i * 32 + 16)
            for i, (n, a, _, _) in enumerate(entries)
        ),
        0,
        batch.finish,
    )


BUG = Bug(
    name="args-of-first-entry",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:Multicall.check",
    replacement=replacement,
    findings=("fetch/asked/memory.decrease",),
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=2)
  memory.decrease(dom1, first=0x60, count=1)
  memory.decrease(dom1, first=0x61, count=1)
multicall(dom1, count=2)
  discovery.limits(dom1, what=GRANTS)
  discovery.limits(dom1, what=MAX_GFN)
""",
)
