"""The index of the ring of coalesced writes moves on before the entry is written.

The guest's device model, on another vCPU, may take the entry as soon as the index moves: it gets what was in the slot
before, performs an old write a second time, and never sees the new one.

In the trigger dom1 writes twice to the window; the ring is right in the end.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.coalesced_mmio import ENTRY, HEADER, LAST, RING, SLOTS, free_slot
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import WRITE


def queue(self, address, size, value):
    """Move the index, then write the entry."""
    hv, vcpu = self.hv, self.vcpu
    ring = guest_access.locate(hv, vcpu, RING, WRITE)
    if ring is None:
        return False
    slot = free_slot(*HEADER.unpack(guest_access.read_at(hv, vcpu, RING, ring, HEADER.size)))
    if slot is None:
        return False
    following = (slot + 1) % SLOTS
    guest_access.write_at(hv, vcpu, RING + LAST, ring + LAST, following.to_bytes(4, "little"))
    at = HEADER.size + slot * ENTRY.size
    guest_access.write_at(hv, vcpu, RING + at, ring + at, ENTRY.pack(address, size, 0, value))
    return True


BUG = Bug(
    name="c03-ring-index-first",
    title="the index of a ring announces an entry that is not there yet",
    replaces="hvfuzz.hypervisor.devices.coalesced_mmio:Window._queue",
    replacement=queue,
    story=__doc__,
    findings=("exits/ring/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=COALESCED, register=0, size=8, value=0x77)
mmio_write(dom1, device=COALESCED, register=8, size=4, value=0x88)
load(dom1, gva=DIRECT+0x1f004, size=4)
load(dom1, gva=DIRECT+0x1f018, size=8)
""",
)
