"""A device is attached to its new domain before its reserved memory is mapped there.

A device that firmware left running goes on using that memory (VT-d spec 8.4): between the two steps its accesses are
blocked. Xen had this order wrong more than once (XSA-378, XSA-400): the device loses data, or hangs the machine.

In the trigger device 1 moves from dom1 to dom2.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.table_tree import READ, WRITE


def apply(self, hv):
    """Attach, then map."""
    bdf = hv.machine.devices[self.device].bdf
    dma = hv.domains[self.domain].dma
    hv.iommu.attach(bdf, dma)
    for page in hv.reserved.get(bdf, ()):
        dma.map(page, page, READ | WRITE)


BUG = Bug(
    name="c03-assigned-before-reserved",
    title="a device runs in its new domain before its reserved memory is mapped",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:AssignDevice.apply",
    replacement=apply,
    story=__doc__,
    findings=("ownership/moment/device.assign",),
    trigger="""\
# hvp 1
world reserved
device.deassign(dom0, device=1)
device.assign(dom0, device=1, to=dom2)
""",
)
