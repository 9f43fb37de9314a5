"""The context entry says pass-through, and the device makes use of it."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.vtd import legacy_mode


def replacement(self, bdf, dma):

    a = self._entry(bdf)
    low, high = legacy_mode.context_entry(dma.domain_id, dma.root, 3)
    self.host.write64(a + 8, high)
    self.host.write64(a, low | 2 << 2)
    self.flush(bdf, dma.domain_id)


BUG = Bug(
    name="context-pass-through-used",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.attach",
    replacement=replacement,
    findings=("ownership/context/device.assign",),
    trigger="""\
# hvp 1
world bare
device.assign(dom0, device=0, to=dom1)
mmio_write(dom1, device=0, register=LENGTH, size=8, value=8)
mmio_write(dom1, device=0, register=CONTROL, size=8, value=1)
""",
)
