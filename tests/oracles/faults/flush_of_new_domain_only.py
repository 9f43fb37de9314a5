"""A device that changes hands is flushed for its new domain, and not for its old one."""

from hvfuzz.bugs import Bug


def replacement(self, bdf):
    address = self._entry(bdf)
    self.host.write64(address, 0)
    self.host.write64(address + 8, 0)
    self.flush(bdf, 0)


BUG = Bug(
    name="flush-of-new-domain-only",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.detach",
    replacement=replacement,
    findings=("stale/unflushed/device.deassign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom0, device=0)
device.assign(dom0, device=0, to=dom2)
""",
)
