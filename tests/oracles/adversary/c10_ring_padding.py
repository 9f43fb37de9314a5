"""The padding of a ring entry is not initialised: it holds half of the register that somebody read last.

The entry is built on the stack, over the word through which register data pass. The 32 bits of padding (`struct
kvm_coalesced_mmio` has them) go to the guest as they are: data of another domain's device, one word for each write.

In the trigger dom1 reads a register, dom2 writes to its window and finds the lower half in its own ring.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import READ_SLOT
from hvfuzz.hypervisor.devices.coalesced_mmio import ENTRY, HEADER, LAST, RING, SLOTS, free_slot
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import WRITE


def queue(self, address, size, value):
    """Append an entry that was never cleared."""
    hv, vcpu = self.hv, self.vcpu
    ring = guest_access.locate(hv, vcpu, RING, WRITE)
    if ring is None:
        return False
    slot = free_slot(*HEADER.unpack(guest_access.read_at(hv, vcpu, RING, ring, HEADER.size)))
    if slot is None:
        return False
    at = HEADER.size + slot * ENTRY.size
    stale = hv.host.read64(hv.bounce + READ_SLOT) & 0xFFFF_FFFF
    guest_access.write_at(hv, vcpu, RING + at, ring + at, ENTRY.pack(address, size, stale, value))
    following = (slot + 1) % SLOTS
    guest_access.write_at(hv, vcpu, RING + LAST, ring + LAST, following.to_bytes(4, "little"))
    return True


BUG = Bug(
    name="c10-ring-padding",
    title="uninitialised padding in a ring entry carries another domain's register to a guest",
    replaces="hvfuzz.hypervisor.devices.coalesced_mmio:Window._queue",
    replacement=queue,
    findings=("exits/ring/mmio_write",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1122334455667788)
mmio_read(dom1, device=0, register=SRC, size=8)
mmio_write(dom2, device=COALESCED, register=0, size=8, value=0)
load(dom2, gva=DIRECT+0x1f014, size=4)
""",
)
