"""INS and OUTS with a count: elements between a port and guest memory, in bursts, each as the guest's own access.

The operand is translated with the rights of the ring that the guest is in: the copy itself is the hypervisor's, and
would go where user code may not. A fault leaves RCX and RSI or RDI at the element that could not be moved, so that the
instruction can be executed again (SDM Vol. 1, 7.3.9.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.abi.boot import FIFO_PORT, FIFO_PORTS, UART_PORT, UART_PORTS
from hvfuzz.abi.limits import STRING_BURST
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import READ, U64, WRITE
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import RCX, RDI, RFLAGS, RSI
from hvfuzz.machine.mmu.paging import RFLAGS_DF

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.hypervisor.devices.fdc import Fifo
    from hvfuzz.hypervisor.devices.uart import Uart
    from hvfuzz.machine.cpu.vcpu import VCpu


def transfer(hv: Hypervisor, vcpu: VCpu) -> bool:
    """Move elements until the count, or a burst, is done, or one faults; whether the instruction is complete."""
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


def device_at(hv: Hypervisor, vcpu: VCpu) -> tuple[Uart | Fifo | None, int]:
    """The domain's own device that answers at the port of the exit, and which of its ports that is."""
    port, domain = vcpu.vmcs.port, hv.domains[vcpu.domain]
    if 0 <= port - UART_PORT < UART_PORTS:
        return domain.uart, port - UART_PORT
    if 0 <= port - FIFO_PORT < FIFO_PORTS:
        return domain.fifo, port - FIFO_PORT
    return None, 0


def move(hv: Hypervisor, vcpu: VCpu, gva: int) -> GuestFault | None:
    """Move the element at `gva`; or the exception that it is."""
    vmcs = vcpu.vmcs
    width = vmcs.width
    device, offset = device_at(hv, vcpu)
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
    value = (1 << (width << 3)) - 1 if device is None else device.port_read(offset, width)
    guest_access.copy_to_guest(hv, vcpu, gva, value.to_bytes(width, "little"))
    return None
