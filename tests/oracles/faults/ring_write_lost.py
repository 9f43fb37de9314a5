"""The index moves on, and the entry is not there."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.coalesced_mmio import RING
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, offset, size, value):
    guest_access.copy_from_guest(self.hv, self.vcpu, RING, 8)
    guest_access.copy_to_guest(self.hv, self.vcpu, RING + 4, (1).to_bytes(4, "little"))


BUG = Bug(
    name="ring-write-lost",
    replaces="hvfuzz.hypervisor.devices.coalesced_mmio:Window.mmio_write",
    replacement=replacement,
    findings=("exits/ring/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=COALESCED, register=DST, size=8, value=7)
""",
)
