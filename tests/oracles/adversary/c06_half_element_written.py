"""INS writes the first part of an element before it looks whether the second part can be written.

An instruction that faults must leave no trace, and must not have read its port: here two bytes are written, the byte
from the serial line is lost, and when the kernel has brought the second page in, the restarted instruction reads the
next one. A page shared with another domain shows half of an element that never came to be.

In the trigger an element of 4 bytes crosses into a page that is not there.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.string_io import device_at
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, SIZE_MASK, WRITE
from hvfuzz.machine.cpu.faults import GuestFault


def move(hv, vcpu, gva):
    """Move an element, page by page."""
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
    value = SIZE_MASK[width] if device is None else device.port_read(offset, width)
    data = value.to_bytes(width, "little")
    first = min(width, PAGE_SIZE - (gva & PAGE_MASK))
    for start, piece in ((gva, data[:first]), (gva + first, data[first:])):
        if piece:
            place = guest_access.operand(hv, vcpu, start, len(piece), WRITE)
            if isinstance(place, GuestFault):
                return place
            guest_access.write_operand(hv, vcpu, place, piece)
    return None


BUG = Bug(
    name="c06-half-element-written",
    title="an INS that faults has written the first half of its element, and read its port",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=move,
    findings=("exits/string/ins",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
pte(dom1, gva=0x405000, level=1, entry=0)
ins(dom1, port=0x80, size=4, gva=0x404ffe, times=1)
load(dom1, gva=0x404ff8, size=8)
""",
)
