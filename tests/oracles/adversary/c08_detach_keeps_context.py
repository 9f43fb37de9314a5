"""When a device changes hands, its translations are flushed, but not its context entry.

The context cache maps the device to its domain (VT-d spec 6.5.1.1). As long as the old entry is cached, the device goes
on through the tables of the last owner: the new owner reads and writes the last owner's
memory.

In the trigger dom1 has used the engine. It goes to dom2, which has the engine copy a secret within dom1's memory.
"""

from hvfuzz.bugs import Bug


def flush(self, bdf, domain_id):
    """Drop the translations of the domain."""
    self.host.machine.iommu.invalidate_iotlb(domain_id)


BUG = Bug(
    name="c08-detach-keeps-context",
    title="a device that was reassigned still accesses the memory of its last owner",
    replaces="hvfuzz.hypervisor.memory.dma:ContextTables.flush",
    replacement=flush,
    findings=("stale/context/device.deassign",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40000, size=8, value=0x5ec2e7)
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_submit(dom1, device=0, from=0x1000, to=0x1100, length=8)
device.deassign(dom0, device=0)
device.assign(dom0, device=0, to=dom2)
mmio_write(dom2, device=0, register=SRC, size=8, value=0x1000)
mmio_write(dom2, device=0, register=DST, size=8, value=0x1200)
mmio_write(dom2, device=0, register=LENGTH, size=8, value=8)
mmio_write(dom2, device=0, register=CONTROL, size=8, value=1)
mmio_read(dom2, device=0, register=STATUS, size=8)
load(dom1, gva=DIRECT+0x40200, size=8)
""",
)
