"""The index moves on, and the entry is not there."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor import access
from hvfuzz.hypervisor.coalesced import RING


def replacement(self, offset, size, value):
    access.copy_from_guest(self.hv, self.vcpu, RING, 8)
    access.copy_to_guest(self.hv, self.vcpu, RING + 4, (1).to_bytes(4, "little"))


BUG = Bug(
    name="ring-write-lost",
    replaces="hvfuzz.hypervisor.coalesced:Window.mmio_write",
    replacement=replacement,
    findings=("exits/ring/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=COALESCED, register=DST, size=8, value=7)
""",
)
