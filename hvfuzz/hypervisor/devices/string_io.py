"""REP INS and REP OUTS: move elements between a port and guest memory, in bursts.

Each element is checked with the privileges of the guest's current ring, since the copy itself has supervisor rights.
A fault leaves RCX and RSI or RDI at the element that could not be moved, so that the instruction can be restarted
(SDM Vol. 1, 7.3.9.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.abi.limits import STRING_BURST
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.vcpu.injection import inject
from hvfuzz.machine.addresses import READ, SIZE_MASK, U64, WRITE
from hvfuzz.machine.cpu.faults import GuestFault, Vector
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
            inject(vcpu, fault)
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
    # Without this check, user code that may execute INS or OUTS could access its kernel's memory.
    fault = guest_access.refusal(hv, vcpu, gva, width, READ if vmcs.write else WRITE)
    if fault is not None:
        return fault
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
