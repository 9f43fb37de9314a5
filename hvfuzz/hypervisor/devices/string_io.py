"""REP INS and REP OUTS: move elements between a port and guest memory, in bursts.

Each element is translated once, with the rights of the guest's current ring: user code that may execute INS or OUTS
cannot access its kernel's memory.
A fault leaves RCX and RSI or RDI at the element that could not be moved, so that the instruction can be restarted
(SDM Vol. 1, 7.3.9.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.abi.limits import STRING_BURST
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import SIZE_MASK, U64, WRITE
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.registers import RCX, RDI, RFLAGS, RSI
from hvfuzz.machine.mmu.paging import RFLAGS_DF

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.interfaces import StringIo
    from hvfuzz.hypervisor.devices.device_model import DeviceModel
    from hvfuzz.machine.cpu.vcpu import VCpu


NO_DEVICE: Final = (None, 0)


def transfer(hv: StringIo, vcpu: VCpu) -> bool:
    """Move elements up to the count, the burst limit or a fault; returns whether the instruction is complete.

    The burst bounds the work of one exit: the guest executes the instruction again for the rest.
    """
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    register = RSI if vmcs.write else RDI
    step = -vmcs.width if saved[RFLAGS] & RFLAGS_DF else vmcs.width
    for _ in range(min(saved[RCX], STRING_BURST)):
        fault = move(hv, vcpu, saved[register])
        if fault is not None:
            vcpu.pending_fault = fault
            return False
        saved[register] = saved[register] + step & U64
        saved[RCX] -= 1
    return not saved[RCX]


def device_at(hv: StringIo, vcpu: VCpu) -> tuple[DeviceModel | None, int]:
    """(device model of the vCPU's domain at the port of the exit or None, offset among its ports)."""
    return hv.domains[vcpu.domain].devices.by_port.get(vcpu.vmcs.port, NO_DEVICE)


def move(hv: StringIo, vcpu: VCpu, gva: int) -> GuestFault | None:
    """Move the element at `gva`; returns the exception instead if the guest may not access it."""
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
    # Locate the element before the port is read: a read may change the device.
    element = guest_access.operand(hv, vcpu, gva, width, WRITE)
    if isinstance(element, GuestFault):
        return element
    value = SIZE_MASK[width] if device is None else device.port_read(offset, width)
    guest_access.write_operand(hv, vcpu, element, value.to_bytes(width, "little"))
    return None
