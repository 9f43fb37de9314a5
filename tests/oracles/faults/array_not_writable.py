"""That the entries can be written is not checked before the calls are made."""

import struct

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls import multicall
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv, caller, vcpu):
    if not 0 < self.count <= 16:
        return Refused(Status.INVALID, "number of entries")
    array = guest_access.copy_from_guest(hv, vcpu, self.entries, self.count * 32)
    if array is None:
        return Refused(Status.FAULT, "entries unreadable")
    batch = multicall.Batch()
    return Effect(
        tuple(
            multicall.RunEntry(batch, vcpu.id, n, a, self.entries + i * 32 + 16)
            for i, (n, a, _, _) in enumerate(struct.iter_unpack("<4Q", array))
        ),
        0,
        batch.finish,
    )


BUG = Bug(
    name="array-not-writable",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:Multicall.check",
    replacement=replacement,
    findings=("specification/nested/multicall",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40000, size=8, value=0x11)
store(dom1, gva=DIRECT+0x40008, size=8, value=0xffff880000041000)
store(dom1, gva=DIRECT+0x41000, size=8, value=0x20018)
store(dom1, gva=DIRECT+0x41008, size=8, value=0x60)
store(dom1, gva=DIRECT+0x41010, size=4, value=1)
pte(dom1, gva=DIRECT+0x40000, level=1, entry=0x40021)
invlpg(dom1, gva=DIRECT+0x40000)
multicall(dom1, entries=DIRECT+0x40000, count=1)
load(dom1, gva=DIRECT+0x60000, size=8)
""",
)
