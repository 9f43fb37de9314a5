"""Whose the device is, is looked up by the vCPU's index."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits


def replacement(hv, vcpu):
    vmcs = vcpu.vmcs
    if not vmcs.width or not vmcs.qualification & exits._FINAL:
        return None
    n = (vmcs.gpa - 0xFE000000) // 4096
    if not 0 <= n < 2:
        return None
    d = hv.machine.devices[n]
    return d if hv.iommu.domain_of(d.bdf) >= 0 else None


BUG = Bug(
    name="cpl3-in-mmio",
    replaces="hvfuzz.hypervisor.core.exits:emulated_device",
    replacement=replacement,
    findings=("exits/fault/mmio_read",),
    trigger="""\
# hvp 1
world devices
mmio_read(dom1, device=1, register=ID, size=8)
""",
)
