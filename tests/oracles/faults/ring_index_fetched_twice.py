"""The index is looked at, and fetched again to be used."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.coalesced_mmio import ENTRY, HEADER, RING, free_slot
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, offset, size, value):
    header = guest_access.copy_from_guest(self.hv, self.vcpu, RING, 8)
    if header is None or free_slot(*HEADER.unpack(header)) is None:
        return
    again = guest_access.copy_from_guest(self.hv, self.vcpu, RING, 8)
    slot = HEADER.unpack(again)[1]
    entry = ENTRY.pack(0xFE012000 + offset, size, 0, value)
    guest_access.copy_to_guest(self.hv, self.vcpu, RING + 8 + slot * 24, entry)
    guest_access.copy_to_guest(self.hv, self.vcpu, RING + 4, ((slot + 1) % 16).to_bytes(4, "little"))


BUG = Bug(
    name="ring-index-fetched-twice",
    replaces="hvfuzz.hypervisor.devices.coalesced_mmio:Window.mmio_write",
    replacement=replacement,
    findings=("exits/ring/mmio_write",),
    trigger="""\
# hvp 1
world pair
race 1: store(dom1.1, gva=DIRECT+0x1f004, size=4, value=512)
mmio_write(dom1, device=COALESCED, register=DST, size=8, value=7)
""",
)
