"""OUTS sends what the same page of the other guest holds: its memory is read in an exit that is not its own."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.string_io import device_at
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import READ
from hvfuzz.machine.cpu.faults import GuestFault


def replacement(hv, vcpu, gva):
    fault = guest_access.operand(hv, vcpu, gva, vcpu.vmcs.width, READ)
    if isinstance(fault, GuestFault):
        return fault
    twin = hv.domains[3 - vcpu.domain].vcpus[vcpu.index]
    data = guest_access.copy_from_guest(hv, twin, gva, vcpu.vmcs.width)
    device, offset = device_at(hv, vcpu)
    device.port_write(offset, vcpu.vmcs.width, int.from_bytes(data, "little"))
    return None


BUG = Bug(
    name="string-of-twin",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=replacement,
    findings=("principal/translation/outs",),
    trigger="""\
# hvp 1
world pair
store(dom2, gva=DIRECT+0x50000, size=8, value=0x6867666564636261)
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=8)
""",
)
