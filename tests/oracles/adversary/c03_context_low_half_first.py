"""A context entry becomes present before its other half, with domain id and width, is written.

The low half has the present bit and the address of the tables (VT-d spec 9.3). A request between the two writes finds
the new tables under the old half: domain id 0, or that of the last owner if the slot was not cleared. What it caches
then has the wrong tag, so that no later flush of the domain finds it; or the request is blocked, which a device that
firmware left running does not survive.

In the trigger an engine moves from dom1 to dom2.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.dma import LEVELS
from hvfuzz.machine.vtd import legacy_mode


def attach(self, bdf, dma):
    """Write the halves in the order of their addresses."""
    address = self._entry(bdf)
    low, high = legacy_mode.context_entry(dma.domain_id, dma.root, LEVELS)
    self.host.write64(address, low)
    self.host.write64(address + 8, high)
    self.flush(bdf, dma.domain_id)


BUG = Bug(
    name="c03-context-low-half-first",
    title="a context entry is present for a moment without its domain id",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.attach",
    replacement=attach,
    story=__doc__,
    findings=("ownership/moment/device.assign",),
    trigger="""\
# hvp 1
world pair
device.deassign(dom0, device=0)
device.assign(dom0, device=0, to=dom2)
""",
)
