"""INS and OUTS check with the right vCPU and copy from and to the other guest's memory."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.string_io import device_at
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import READ, SIZE_MASK, WRITE
from hvfuzz.machine.cpu.faults import GuestFault, Vector


def twin(hv, vcpu):
    """The vCPU of the other guest with the same index: all guests boot alike."""
    domain = {1: 2, 2: 1}.get(vcpu.domain)
    if domain is None or vcpu.index >= len(hv.domains[domain].vcpus):
        return vcpu
    return hv.domains[domain].vcpus[vcpu.index]


def replacement(hv, vcpu, gva):
    vmcs = vcpu.vmcs
    width = vmcs.width
    device, offset = device_at(hv, vcpu)
    where = guest_access.operand(hv, vcpu, gva, width, READ if vmcs.write else WRITE)
    if isinstance(where, GuestFault):
        return where
    other = twin(hv, vcpu)
    if vmcs.write:
        data = guest_access.copy_from_guest(hv, other, gva, width)
        if data is None:
            return GuestFault(Vector.GP)
        if device is not None:
            device.port_write(offset, width, int.from_bytes(data, "little"))
        return None
    value = SIZE_MASK[width] if device is None else device.port_read(offset, width)
    guest_access.copy_to_guest(hv, other, gva, value.to_bytes(width, "little"))
    return None


BUG = Bug(
    name="string-neighbour",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=replacement,
    findings=("principal/translation/outs",),
    trigger="""\
# hvp 1
world pair
store(dom2, gva=DIRECT+0x50000, size=8, value=0x6867666564636261)
out(dom1, port=0x3fa, size=1, value=1)
out(dom1, port=0x3fc, size=1, value=0x10)
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=8)
in(dom1, port=0x3f8, size=1)
""",
)
