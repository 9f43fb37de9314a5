"""INS from a port where nothing answers stores what is left in the bounce buffer.

The buffer through which register data passes is shared by all domains, and is filled only if a device model answers.
Otherwise the guest gets the last register that anyone read (QEMU and Xen had several of these, XSA-239 among them).

In the trigger dom1 reads a register of its device; dom2 has the value stored in its own memory by INS.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import READ_SLOT
from hvfuzz.hypervisor.devices.string_io import device_at
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import SIZE_MASK, WRITE
from hvfuzz.machine.cpu.faults import GuestFault


def move(hv, vcpu, gva):
    """Move an element by way of the bounce buffer."""
    vmcs = vcpu.vmcs
    width = vmcs.width
    device, offset = device_at(hv, vcpu)
    if vmcs.write:
        data = guest_access.fetch_operand(hv, vcpu, gva, width)
        if isinstance(data, GuestFault):
            return data
        if device is not None:
            device.port_write(offset, width, int.from_bytes(data, "little"))
        return None
    element = guest_access.operand(hv, vcpu, gva, width, WRITE)
    if isinstance(element, GuestFault):
        return element
    slot = hv.bounce + READ_SLOT
    if device is not None:
        hv.host.write64(slot, device.port_read(offset, width))
    value = hv.host.read64(slot) & SIZE_MASK[width]
    guest_access.write_operand(hv, vcpu, element, value.to_bytes(width, "little"))
    return None


BUG = Bug(
    name="c02-ins-stale-bounce",
    title="INS from an unused port gives the register that another domain read last",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=move,
    findings=("exits/string/ins",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1122334455667788)
mmio_read(dom1, device=0, register=SRC, size=8)
ins(dom2, port=0x80, size=4, gva=DIRECT+0x50001, times=1)
load(dom2, gva=DIRECT+0x50000, size=8)
""",
)
