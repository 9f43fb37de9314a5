"""VM exits: hypercalls, instructions that are emulated, and accesses that stage 2 refuses.

Every handler edits `vmcs.saved`, which is what the vCPU goes on with, or leaves a fault for VM entry to inject.
An exception that leaves this module is an error of the hypervisor, never of the guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.abi.boot import (
    CPUID_SIGNATURE,
    CPUID_VERSION,
    DEVICES,
    MMIO_BASE,
    MMIO_SIZE,
    UART_PORT,
    UART_PORTS,
)
from hvfuzz.abi.versions import CURRENT
from hvfuzz.hypervisor import dispatch, ports
from hvfuzz.hypervisor.host import HostBug
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.ept import Qualification
from hvfuzz.machine.faults import GuestFault, Vector
from hvfuzz.machine.vmcs import RAX, RCX, RIP, ExitReason, Reg, Vmcs

if TYPE_CHECKING:
    from hvfuzz.hypervisor.hypervisor import Hypervisor
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.machine.devices.device import Device

RBX = int(Reg.RBX)
RDX = int(Reg.RDX)
SIGNATURE = b"hvfuzz emuhv"
"""EBX, ECX and EDX of the signature leaf, four bytes each."""
READ_SLOT = 0
"""Offset in the bounce buffer of the word that a register read goes through."""
WRITE_SLOT = 8
"""The same for a register write."""
# A member of an enumeration takes ten times as long to look up as a global.
_VMCALL = ExitReason.VMCALL
_EPT_VIOLATION = ExitReason.EPT_VIOLATION
_IO = ExitReason.IO
_FINAL = int(Qualification.FINAL)


def handle_exit(hv: Hypervisor, vcpu: VCpu) -> None:
    """Handle the exit that `vcpu.vmcs` describes."""
    if hv.scheduler.polls:
        hv.scheduler.expire(hv.machine.vcpus)
    reason = vcpu.vmcs.reason
    if reason is _VMCALL:
        dispatch.vmcall(hv, vcpu)
    elif reason is _EPT_VIOLATION:
        ept_violation(hv, vcpu)
    elif reason is _IO:
        port_access(hv, vcpu)
    elif reason is ExitReason.CPUID:
        cpuid(vcpu)
    elif reason is ExitReason.HLT:
        hlt(hv, vcpu)
    elif reason is ExitReason.EPT_MISCONFIGURATION:
        raise HostBug("stage 2 is misconfigured")
    else:
        raise HostBug(f"an exit that was not asked for: {reason.name}")


def step_over(vmcs: Vmcs) -> None:
    """The instruction was emulated: the vCPU goes on with the next."""
    vmcs.saved[RIP] = vmcs.saved[RIP] + vmcs.length & U64


# Instructions.


def cpuid(vcpu: VCpu) -> None:
    """Tell the guest that there is a hypervisor, and of what version; hide the host's processor."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    saved[RAX], saved[RBX], saved[RCX], saved[RDX] = cpuid_leaf(vmcs.leaf)
    step_over(vmcs)


def cpuid_leaf(leaf: int) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX of a leaf as every guest sees it."""
    if leaf == CPUID_SIGNATURE:
        ebx, ecx, edx = (int.from_bytes(SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
        return CPUID_VERSION, ebx, ecx, edx
    if leaf == CPUID_VERSION:
        return CURRENT, 0, 0, 0
    return 0, 0, 0, 0


def hlt(hv: Hypervisor, vcpu: VCpu) -> None:
    """Halt the vCPU, unless there is an event that it has not seen yet."""
    if not ports.any_pending(hv.domains[vcpu.domain]):
        hv.scheduler.halt(vcpu)
    step_over(vcpu.vmcs)


def port_access(hv: Hypervisor, vcpu: VCpu) -> None:
    """IN or OUT: the domain's serial port; nothing else answers."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    offset = vmcs.port - UART_PORT
    uart = hv.domains[vcpu.domain].uart if 0 <= offset < UART_PORTS else None
    if vmcs.write:
        if uart is not None:
            uart.port_write(offset, vmcs.width, saved[RAX])
    else:
        value = ones(vmcs.width) if uart is None else uart.port_read(offset, vmcs.width)
        saved[RAX] = merged(saved[RAX], vmcs.width, value)
    step_over(vmcs)


def ones(width: int) -> int:
    """What a read of `width` bytes gives where nothing answers."""
    return (1 << (width << 3)) - 1


def merged(register: int, width: int, value: int) -> int:
    """`register` after `width` bytes were written to it: 1 and 2 leave the rest, 4 clears the upper half."""
    return value if width >= 4 else register & ~ones(width) | value


# Accesses that stage 2 refuses.


def ept_violation(hv: Hypervisor, vcpu: VCpu) -> None:
    """A register access, if the page belongs to a device of the domain; else the guest gets #GP(0)."""
    device = emulated_device(hv, vcpu)
    if device is None:
        vcpu.pending_fault = GuestFault(Vector.GP, 0)
        return
    vmcs = vcpu.vmcs
    # The violation tells the page; where in it the operand lies, and how long it is, the instruction does.
    offset, width = vmcs.operand & (MMIO_SIZE - 1), vmcs.width
    aligned = not offset & (width - 1)
    if vmcs.write:
        if aligned:
            write_register(hv, device, offset, width, vmcs.saved[RAX])
    else:
        vmcs.saved[RAX] = read_register(hv, device, offset, width) if aligned else 0
    step_over(vmcs)


def emulated_device(hv: Hypervisor, vcpu: VCpu) -> Device | None:
    """The device whose register the faulting load or store is for; None if it is for none of the domain's."""
    vmcs = vcpu.vmcs
    if not vmcs.width or not vmcs.qualification & _FINAL:
        return None  # a fetch, or the walk of a page table: neither can be emulated
    number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
    if not 0 <= number < DEVICES:
        return None
    device = hv.machine.devices[number]
    return device if hv.iommu.domain_of(device.bdf) == vcpu.domain else None


# Registers are emulated through a word of the bounce buffer for each direction, as a real emulator hands a pointer to
# its data to a device model. Each is written whole before it is used, whatever the width of the access: what was there
# before is the hypervisor's own.


def read_register(hv: Hypervisor, device: Device, offset: int, width: int) -> int:
    """Read `width` bytes of a register."""
    slot = hv.bounce + READ_SLOT
    fill_slot(hv, slot, device.mmio_read(offset, width), width)
    return hv.host.read64(slot)


def write_register(hv: Hypervisor, device: Device, offset: int, width: int, value: int) -> None:
    """Write the low `width` bytes of `value` to a register."""
    slot = hv.bounce + WRITE_SLOT
    fill_slot(hv, slot, value, width)
    device.mmio_write(offset, width, hv.host.read64(slot))


def fill_slot(hv: Hypervisor, slot: int, value: int, width: int) -> None:
    """Put the low `width` bytes of `value` into a slot, and zeroes beyond them."""
    hv.host.write64(slot, value & ones(width))
