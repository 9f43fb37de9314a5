"""VM exits: hypercalls, instructions that are emulated, and accesses that stage 2 refuses.

Every handler edits `vmcs.saved`, which is what the vCPU goes on with, or leaves a fault for VM entry to inject.
An exception that leaves this module is an error of the hypervisor, never of the guest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hvfuzz.abi.boot import DEVICES, MMIO_BASE, MMIO_SIZE
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.devices import string_io, timer
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.hypervisor.vcpu import apic, apic_timer, guest_clock, msr
from hvfuzz.hypervisor.vcpu.cpuid import cpuid_leaf
from hvfuzz.machine.addresses import SIZE_MASK, U64
from hvfuzz.machine.cpu.faults import GuestFault, Vector, combined
from hvfuzz.machine.cpu.msrs import TSC_AUX
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX, RIP, Saved
from hvfuzz.machine.cpu.vmcs import VECTORING_EXCEPTION, ExitReason, Vmcs
from hvfuzz.machine.mmu.ept import Qualification

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.hypervisor.devices.device_model import Registers
    from hvfuzz.machine.cpu.vcpu import VCpu

MSRS = int(Saved.MSRS)
READ_SLOT = 0
"""Offset in the bounce buffer of the word that a register read goes through."""
WRITE_SLOT = 8
"""The same for a register write."""
_FINAL = int(Qualification.FINAL)


def handle_exit(hv: Hypervisor, vcpu: VCpu) -> None:
    """Handle the exit that `vcpu.vmcs` describes, after every deadline that has passed."""
    if hv.scheduler.polls:
        hv.scheduler.expire(hv.machine.vcpus)
    if hv.timers:
        timer.expire(hv)
    if hv.apic_timers:
        apic_timer.expire(hv)
    handler = HANDLERS.get(vcpu.vmcs.reason)
    if handler is None:
        raise HostBug(f"unexpected VM exit: {vcpu.vmcs.reason.name}")
    handler(hv, vcpu)


def step_over(vmcs: Vmcs) -> None:
    """The instruction was emulated: the vCPU goes on with the next."""
    vmcs.saved[RIP] = vmcs.saved[RIP] + vmcs.length & U64


# Instructions.


def cpuid(hv: Hypervisor, vcpu: VCpu) -> None:
    """Describe the emulated processor and the hypervisor; hide the host's processor."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    vcpus = len(hv.domains[vcpu.domain].vcpus)
    subleaf = saved[RCX] & 0xFFFF_FFFF
    saved[RAX], saved[RBX], saved[RCX], saved[RDX] = cpuid_leaf(vmcs.leaf, subleaf, vcpu.index, vcpus)
    step_over(vmcs)


def time_stamp(hv: Hypervisor, vcpu: VCpu) -> None:
    """RDTSC, or RDTSCP, which says as well what the guest has in TSC_AUX."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    value = guest_clock.read_counter(hv, vcpu)
    saved[RAX], saved[RDX] = value & 0xFFFF_FFFF, value >> 32
    if vmcs.reason is ExitReason.RDTSCP:
        saved[RCX] = saved[MSRS].get(TSC_AUX, 0)
    step_over(vmcs)


def read_msr(hv: Hypervisor, vcpu: VCpu) -> None:
    """RDMSR of an MSR that the processor does not keep for the guest."""
    vmcs = vcpu.vmcs
    value = msr.read(hv, vcpu, vmcs.leaf)
    if value is None:
        vcpu.pending_fault = GuestFault(Vector.GP, 0)
        return
    vmcs.saved[RAX], vmcs.saved[RDX] = value & 0xFFFF_FFFF, value >> 32
    step_over(vmcs)


def write_msr(hv: Hypervisor, vcpu: VCpu) -> None:
    """WRMSR, likewise."""
    vmcs = vcpu.vmcs
    value = (vmcs.saved[RAX] & 0xFFFF_FFFF) | (vmcs.saved[RDX] & 0xFFFF_FFFF) << 32
    if msr.write(hv, vcpu, vmcs.leaf, value):
        step_over(vmcs)
    else:
        vcpu.pending_fault = GuestFault(Vector.GP, 0)


def hlt(hv: Hypervisor, vcpu: VCpu) -> None:
    """Halt the vCPU, unless there is an event that it has not seen yet, or an interrupt that it can take."""
    if not event_channels.any_pending(hv.domains[vcpu.domain]) and apic.pending(hv, vcpu) < 0:
        hv.scheduler.halt(vcpu)
    step_over(vcpu.vmcs)


def port_access(hv: Hypervisor, vcpu: VCpu) -> None:
    """IN or OUT, or a string of them: the domain's serial port or floppy controller; nothing else answers."""
    vmcs = vcpu.vmcs
    if vmcs.string:
        if string_io.transfer(hv, vcpu):
            step_over(vmcs)
        return
    saved = vmcs.saved
    device, offset = string_io.device_at(hv, vcpu)
    if vmcs.write:
        if device is not None:
            device.port_write(offset, vmcs.width, saved[RAX])
    else:
        value = SIZE_MASK[vmcs.width] if device is None else device.port_read(offset, vmcs.width)
        saved[RAX] = merged(saved[RAX], vmcs.width, value)
    step_over(vmcs)


def merged(register: int, width: int, value: int) -> int:
    """`register` after `width` bytes were written to it: 1 and 2 leave the rest, 4 clears the upper half."""
    return value if width >= 4 else register & ~SIZE_MASK[width] | value


def triple_fault(hv: Hypervisor, vcpu: VCpu) -> None:
    """The guest's own fault handling failed: the vCPU never runs again."""
    hv.scheduler.stop(vcpu)


# Accesses that stage 2 refuses.


def ept_misconfiguration(hv: Hypervisor, vcpu: VCpu) -> None:
    """The hypervisor wrote a malformed EPT entry: its own error, whatever the guest did."""
    raise HostBug("stage 2 is misconfigured")


def ept_violation(hv: Hypervisor, vcpu: VCpu) -> None:
    """A register access, if the page belongs to a device or a model of the domain; else the guest gets #GP(0)."""
    device = emulated_device(hv, vcpu)
    if device is None:
        refuse_access(hv, vcpu)
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


def refuse_access(hv: Hypervisor, vcpu: VCpu) -> None:
    """#GP(0); in the delivery of another exception, what a processor makes of the two, which may be the end."""
    refusal = GuestFault(Vector.GP, 0)
    vectoring = vcpu.vmcs.vectoring
    exception = vectoring & VECTORING_EXCEPTION == VECTORING_EXCEPTION
    fault = combined(vectoring & 0xFF, refusal) if exception else refusal
    if fault is None:
        hv.scheduler.stop(vcpu)
    else:
        vcpu.pending_fault = fault


def emulated_device(hv: Hypervisor, vcpu: VCpu) -> Registers | None:
    """The device whose register the faulting load or store is for; None if it is for none of the domain's."""
    vmcs = vcpu.vmcs
    if not vmcs.width or not vmcs.qualification & _FINAL:
        return None  # a fetch, or the walk of a page table: neither can be emulated
    number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
    if 0 <= number < DEVICES:
        device = hv.machine.devices[number]
        return device if hv.iommu.domain_of(device.bdf) == vcpu.domain else None
    model = hv.domains[vcpu.domain].devices.by_page.get(number)
    return None if model is None else model.accessed_by(vcpu)


# Registers are emulated through a word of the bounce buffer for each direction, as a real emulator hands a pointer to
# its data to a device model. Each is written whole before it is used, whatever the width of the access: what was there
# before is the hypervisor's own.


def read_register(hv: Hypervisor, device: Registers, offset: int, width: int) -> int:
    """Read `width` bytes of a register."""
    slot = hv.bounce + READ_SLOT
    fill_slot(hv, slot, device.mmio_read(offset, width), width)
    return hv.host.read64(slot)


def write_register(hv: Hypervisor, device: Registers, offset: int, width: int, value: int) -> None:
    """Write the low `width` bytes of `value` to a register."""
    slot = hv.bounce + WRITE_SLOT
    fill_slot(hv, slot, value, width)
    device.mmio_write(offset, width, hv.host.read64(slot))


def fill_slot(hv: Hypervisor, slot: int, value: int, width: int) -> None:
    """Put the low `width` bytes of `value` into a slot, and zeroes beyond them."""
    hv.host.write64(slot, value & SIZE_MASK[width])


HANDLERS: Final[dict[ExitReason, Callable[[Hypervisor, VCpu], None]]] = {
    ExitReason.VMCALL: dispatch.vmcall,
    ExitReason.EPT_VIOLATION: ept_violation,
    ExitReason.EPT_MISCONFIGURATION: ept_misconfiguration,
    ExitReason.IO: port_access,
    ExitReason.CPUID: cpuid,
    ExitReason.RDTSC: time_stamp,
    ExitReason.RDTSCP: time_stamp,
    ExitReason.RDMSR: read_msr,
    ExitReason.WRMSR: write_msr,
    ExitReason.HLT: hlt,
    ExitReason.TRIPLE_FAULT: triple_fault,
}
"""Exit reason -> its handler."""
