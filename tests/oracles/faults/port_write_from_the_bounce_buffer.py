"""OUTS sends what lies in the bounce buffer, byte by byte, and never fills it with what it fetched."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices.string_io import device_at
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.faults import GuestFault


def replacement(hv, vcpu, gva):
    data = guest_access.fetch_operand(hv, vcpu, gva, vcpu.vmcs.width)
    if isinstance(data, GuestFault):
        return data
    device, offset = device_at(hv, vcpu)
    left = hv.host.read(hv.bounce + 0x403 + gva % 8, vcpu.vmcs.width)
    device.port_write(offset, vcpu.vmcs.width, int.from_bytes(left, "little"))
    return None


BUG = Bug(
    name="port-write-from-the-bounce-buffer",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=replacement,
    findings=("exits/model/outs",),
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=8)
""",
)
