"""CVE-2023-4969 (LeftoverLocals): what one user leaves in the memory of a device is there for the next one.

Cause: several GPUs, and their drivers, did not clear local memory between two kernels. The next kernel, also one of
another user or virtual machine, could read what the last one had left: its authors read the answers that a language
model gave to another user.

Here the memory is the pages that firmware reserves for a device, which keep their contents when the device is taken
from its domain.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls.device.assignment import DeassignDevice


def apply(self: DeassignDevice, hv: Hypervisor) -> None:
    """Detach, unmap and reset, without zeroing the reserved pages."""
    device = hv.machine.devices[self.device]
    dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
    hv.iommu.detach(device.bdf)
    window = hv.window_of(self.device)
    if window is not None:
        dma.unmap(window[1])
        del hv.windows[window]
    for page in hv.reserved.get(device.bdf, ()):
        dma.unmap(page)
    device.reset()


BUG = Bug(
    name="cve-2023-4969",
    advisory="CVE-2023-4969",
    title="the reserved memory of a device is not zeroed when the device is taken from its domain",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=apply,
    findings=("contents/reserved/device.deassign",),
    difficulty=4,
    story=__doc__,
    trigger="""\
# hvp 1
world reserved
device.dma_map(dom1, iova=0, gfn=0x3f, count=1, rights=R)
device.dma_submit(dom1, device=1, from=0xff8, to=0xffe000, length=8)
device.deassign(dom0, device=1)
""",
)
