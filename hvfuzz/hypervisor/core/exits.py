"""VM exit handlers: hypercalls, emulated instructions, and accesses that stage 2 refuses.

Each handler edits `vmcs.saved`, the state with which the vCPU resumes, or sets a fault for VM entry to inject.
An exception that leaves this module is a bug of the hypervisor, whatever the guest did.
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
from hvfuzz.hypervisor.vcpu.injection import inject
from hvfuzz.machine.addresses import SIZE_MASK, U64
from hvfuzz.machine.cpu.faults import GuestFault, Vector, combined
from hvfuzz.machine.cpu.msrs import TSC_AUX
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX, RFLAGS, RIP, Saved
from hvfuzz.machine.cpu.vmcs import VECTORING_EXCEPTION, ExitReason, Vmcs
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.machine.mmu.paging import RFLAGS_RF

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.hypervisor.devices.device_model import Registers
    from hvfuzz.machine.cpu.vcpu import VCpu

MSRS = int(Saved.MSRS)
READ_SLOT = 0
"""Offset in the bounce buffer of the data word of register reads."""
WRITE_SLOT = 8
"""Offset in the bounce buffer of the data word of register writes."""
TASK_PRIORITY = 8
"""Number of the control register CR8."""
_FINAL = int(Qualification.FINAL)


def handle_exit(hv: Hypervisor, vcpu: VCpu) -> None:
    """Expire all deadlines that have passed, then handle the exit that `vcpu.vmcs` describes."""
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
    """Advance RIP past the emulated instruction (length: SDM Vol. 3C, 28.2.5), whose completion clears RF."""
    vmcs.saved[RIP] = vmcs.saved[RIP] + vmcs.length & U64
    vmcs.saved[RFLAGS] &= ~RFLAGS_RF


# Instructions.


def cpuid(hv: Hypervisor, vcpu: VCpu) -> None:
    """CPUID: the emulated processor and the hypervisor, nothing of the host (SDM Vol. 2A, CPUID)."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    vcpus = len(hv.domains[vcpu.domain].vcpus)
    subleaf = saved[RCX] & 0xFFFF_FFFF
    saved[RAX], saved[RBX], saved[RCX], saved[RDX] = cpuid_leaf(vmcs.leaf, subleaf, vcpu.index, vcpus)
    step_over(vmcs)


def time_stamp(hv: Hypervisor, vcpu: VCpu) -> None:
    """RDTSC; RDTSCP also loads the guest's TSC_AUX into ECX (SDM Vol. 2B, RDTSC and RDTSCP)."""
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    value = guest_clock.read_counter(hv, vcpu)
    saved[RAX], saved[RDX] = value & 0xFFFF_FFFF, value >> 32
    if vmcs.reason is ExitReason.RDTSCP:
        saved[RCX] = saved[MSRS].get(TSC_AUX, 0)
    step_over(vmcs)


def read_msr(hv: Hypervisor, vcpu: VCpu) -> None:
    """RDMSR of an MSR that the hypervisor emulates (SDM Vol. 2B, RDMSR)."""
    vmcs = vcpu.vmcs
    value = msr.read(hv, vcpu, vmcs.leaf)
    # SDM Vol. 2B, RDMSR: a reserved or unimplemented MSR address is #GP(0).
    if value is None:
        inject(vcpu, GuestFault(Vector.GP, 0))
        return
    vmcs.saved[RAX], vmcs.saved[RDX] = value & 0xFFFF_FFFF, value >> 32
    step_over(vmcs)


def write_msr(hv: Hypervisor, vcpu: VCpu) -> None:
    """WRMSR of an MSR that the hypervisor emulates (SDM Vol. 2D, WRMSR)."""
    vmcs = vcpu.vmcs
    value = (vmcs.saved[RAX] & 0xFFFF_FFFF) | (vmcs.saved[RDX] & 0xFFFF_FFFF) << 32
    # SDM Vol. 2D, WRMSR: #GP(0) for an unimplemented MSR, or a reserved bit set; RIP then stays.
    if msr.write(hv, vcpu, vmcs.leaf, value):
        step_over(vmcs)
    else:
        inject(vcpu, GuestFault(Vector.GP, 0))


def cr_access(hv: Hypervisor, vcpu: VCpu) -> None:
    """MOV to or from CR8, which is bits 7..4 of the TPR of the local APIC (SDM Vol. 3A, 11.8.6)."""
    vmcs = vcpu.vmcs
    number, write, register = vmcs.qualification & 15, not vmcs.qualification >> 4 & 3, vmcs.qualification >> 8 & 15
    if number != TASK_PRIORITY:
        raise HostBug(f"unexpected VM exit: access to CR{number}")
    if not write:
        vmcs.saved[register] = apic.get(hv, vcpu, apic.TPR) >> 4
    elif vmcs.saved[register] >> 4:
        inject(vcpu, GuestFault(Vector.GP, 0))  # Bits 63..4 are reserved (SDM Vol. 2B, MOV to control register).
        return
    else:
        apic.write(hv, vcpu, apic.TPR, vmcs.saved[register] << 4)
    step_over(vmcs)


def hlt(hv: Hypervisor, vcpu: VCpu) -> None:
    """HLT: halt the vCPU (SDM Vol. 2A, HLT)."""
    # An event or interrupt that came before the HLT ends it at once: else the vCPU could sleep for ever.
    if not event_channels.any_pending(hv.domains[vcpu.domain]) and apic.pending(hv, vcpu) < 0:
        hv.scheduler.halt(vcpu)
    step_over(vcpu.vmcs)


def port_access(hv: Hypervisor, vcpu: VCpu) -> None:
    """IN, OUT, INS or OUTS at a port of the domain's device models; other ports read as ones (SDM Vol. 3C, 28.2.1)."""
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
    """`register` after a write of `width` bytes: 1 or 2 keep the rest, 4 clear the high half (SDM Vol. 1, 3.4.1.1)."""
    return value if width >= 4 else register & ~SIZE_MASK[width] | value


def shut_down(hv: Hypervisor, vcpu: VCpu) -> None:
    """Triple fault, or a guest state that VM entry refuses: the vCPU never runs again (SDM Vol. 3C, 26.2 and 27.8)."""
    hv.scheduler.stop(vcpu)


# Accesses that stage 2 refuses.


def ept_misconfiguration(hv: Hypervisor, vcpu: VCpu) -> None:
    """EPT misconfiguration (SDM Vol. 3C, 29.3.3.1): the hypervisor wrote a malformed entry, which is its bug."""
    raise HostBug("stage 2 is misconfigured")


def ept_violation(hv: Hypervisor, vcpu: VCpu) -> None:
    """EPT violation (SDM Vol. 3C, 29.3.3.2): emulate accesses to the domain's devices, refuse all others."""
    device = emulated_device(hv, vcpu)
    if device is None:
        refuse_access(hv, vcpu)
        return
    vmcs = vcpu.vmcs
    # The exit gives the page; offset and width come from the decoded instruction.
    offset, width = vmcs.operand & (MMIO_SIZE - 1), vmcs.width
    # A misaligned access could cross into the next register: it reads as zero and writes nothing.
    aligned = not offset & (width - 1)
    if vmcs.write:
        if aligned:
            write_register(hv, device, offset, width, vmcs.saved[RAX])
    else:
        vmcs.saved[RAX] = read_register(hv, device, offset, width) if aligned else 0
    step_over(vmcs)


def refuse_access(hv: Hypervisor, vcpu: VCpu) -> None:
    """Inject #GP(0), or what it becomes during the delivery of another exception: #DF, or a triple fault.

    (SDM Vol. 3A, tables 6-4 and 6-5; Vol. 3C, 28.2.4 on IDT-vectoring information.)
    """
    refusal = GuestFault(Vector.GP, 0)
    vectoring = vcpu.vmcs.vectoring
    exception = vectoring & VECTORING_EXCEPTION == VECTORING_EXCEPTION
    fault = combined(vectoring & 0xFF, refusal) if exception else refusal
    if fault is None:
        hv.scheduler.stop(vcpu)
    else:
        inject(vcpu, fault)


def emulated_device(hv: Hypervisor, vcpu: VCpu) -> Registers | None:
    """The device or device model of the domain that the faulting load or store addresses; None if there is none."""
    vmcs = vcpu.vmcs
    # Neither a fetch nor a page-table walk can be emulated (SDM Vol. 3C, table 28-7: bit 8 tells a walk).
    if not vmcs.width or not vmcs.qualification & _FINAL:
        return None
    number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
    if 0 <= number < DEVICES:
        device = hv.machine.devices[number]
        # Without this check, a domain could program a device that does DMA into another domain.
        return device if hv.iommu.domain_of(device.bdf) == vcpu.domain else None
    model = hv.domains[vcpu.domain].devices.by_page.get(number)
    return None if model is None else model.accessed_by(vcpu)


# Register data passes through one word of the bounce buffer for each direction, as a real emulator hands a device model
# a pointer to its data. The whole word is written before use, whatever the width of the access: it may hold
# data of the hypervisor (XSA-239).


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
    """Write the low `width` bytes of `value`, extended by zeroes, to a slot."""
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
    ExitReason.CR_ACCESS: cr_access,
    ExitReason.TRIPLE_FAULT: shut_down,
    ExitReason.INVALID_GUEST_STATE: shut_down,
}
"""Exit reason -> handler (SDM Vol. 3D, appendix C)."""
