"""A device is detached by clearing the half without the present bit first: for a moment it has domain id 0."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.vtd.legacy_mode import DID_MASK, DID_SHIFT


def replacement(self, bdf):
    address = self._entry(bdf)
    domain_id = self.host.read64(address + 8) >> DID_SHIFT & DID_MASK
    self.host.write64(address + 8, 0)
    self.host.write64(address, 0)
    self.flush(bdf, domain_id)


BUG = Bug(
    name="context-high-half-first",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.detach",
    replacement=replacement,
    findings=("ownership/moment/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom0, device=0)
""",
)
