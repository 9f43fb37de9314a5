"""OUTS asks with the rights of the guest's ring, and copies with a supervisor's: a remap in between wins."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.string_io import device_at
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import READ, SIZE_MASK, WRITE
from hvfuzz.machine.cpu.faults import GuestFault, Vector


def replacement(hv, vcpu, gva):
    vmcs = vcpu.vmcs
    width = vmcs.width
    device, offset = device_at(hv, vcpu)
    where = guest_access.operand(hv, vcpu, gva, width, READ if vmcs.write else WRITE)
    if isinstance(where, GuestFault):
        return where
    if vmcs.write:
        data = guest_access.copy_from_guest(hv, vcpu, gva, width)
        if data is None:
            return GuestFault(Vector.GP)
        if device is not None:
            device.port_write(offset, width, int.from_bytes(data, "little"))
        return None
    value = SIZE_MASK[width] if device is None else device.port_read(offset, width)
    guest_access.copy_to_guest(hv, vcpu, gva, value.to_bytes(width, "little"))
    return None


BUG = Bug(
    name="string-io-translated-twice",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=replacement,
    findings=("exits/string/outs",),
    trigger="""\
# hvp 1
world pair
tlb(dom1, capacity=0)
store(dom1, gva=DIRECT+0xf000, size=8, value=0x400000)
store(dom1, gva=DIRECT+0xf008, size=8, value=0x33)
store(dom1, gva=DIRECT+0xf010, size=8, value=0x3202)
store(dom1, gva=DIRECT+0xf018, size=8, value=0x400ff8)
store(dom1, gva=DIRECT+0xf020, size=8, value=0x2b)
iret(dom1)
race 0: pte(dom1.1, gva=0x401000, level=1, entry=0x50003)
outs(dom1, port=0x3f8, size=1, gva=0x401000, times=1)
""",
)
