"""The page after the registers of the last device is taken for those of one more device.

`<=` for `<`: the array of devices is read one past its end. In C what stands there is used as a device, with function
pointers in it; here the host stops. Any guest does it with one load.

In the trigger dom1 loads from that page.
"""

from hvfuzz.abi.boot import DEVICES, MMIO_BASE, MMIO_SIZE
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import _FINAL


def emulated_device(hv, vcpu):
    """The device or device model that the access addresses."""
    vmcs = vcpu.vmcs
    if not vmcs.width or not vmcs.qualification & _FINAL:
        return None
    number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
    if 0 <= number <= DEVICES:
        device = hv.machine.devices[number]
        return device if hv.iommu.domain_of(device.bdf) == vcpu.domain else None
    model = hv.domains[vcpu.domain].devices.by_page.get(number)
    return None if model is None else model.accessed_by(vcpu)


BUG = Bug(
    name="c11-register-page-one-past",
    title="a load from the page behind the last device reads beyond the list of devices",
    replaces="hvfuzz.hypervisor.core.exits:emulated_device",
    replacement=emulated_device,
    findings=("host_memory/exception:IndexError/load",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0xfe005000, size=8)
load(dom1, gva=DIRECT+0xfe004000, size=8)
""",
)
