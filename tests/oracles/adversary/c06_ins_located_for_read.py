"""The destination of INS is translated as for a read, then written.

The wrong constant is passed for the access. INS writes to every page that can be read: to pages that the kernel made
read-only, and to frames that another domain has granted read-only. Stage 2 protects these, but the hypervisor's own
mapping, by which it writes, does not.

In the trigger dom1 grants a page for reading only. dom2 overwrites it by INS.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.string_io import device_at
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import READ, SIZE_MASK
from hvfuzz.machine.cpu.faults import GuestFault


def move(hv, vcpu, gva):
    """Move an element."""
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
    element = guest_access.operand(hv, vcpu, gva, width, READ)
    if isinstance(element, GuestFault):
        return element
    value = SIZE_MASK[width] if device is None else device.port_read(offset, width)
    guest_access.write_operand(hv, vcpu, element, value.to_bytes(width, "little"))
    return None


BUG = Bug(
    name="c06-ins-located-for-read",
    title="INS writes to pages that may only be read, those granted read-only included",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=move,
    findings=("ownership/copy/ins",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R)
r1 = grant.map(dom2, granter=dom1, ref=r0, gfn=0x100, iova=0, flags=HOST|READONLY)
ins(dom2, port=0x80, size=4, gva=DIRECT+0x100000, times=2)
load(dom1, gva=DIRECT+0x40000, size=8)
""",
)
