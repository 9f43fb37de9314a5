"""VM exits and VM entries: the guest state saved, the exit handler called, and the state it leaves loaded."""

from typing import Any, Final

from hvfuzz.machine.addresses import EXEC, WRITE
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu import entry_checks
from hvfuzz.machine.cpu.faults import (
    INVALID_CONTROL,
    INVALID_GUEST_STATE,
    EptMisconfiguration,
    EptViolation,
    GuestFault,
    Vector,
    VmEntryFailure,
)
from hvfuzz.machine.cpu.processor_state import STOPPED, CpuState
from hvfuzz.machine.cpu.registers import REGISTERS, RFLAGS, RIP, Saved
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu.ept import is_valid_eptp
from hvfuzz.machine.mmu.paging import RFLAGS_RF

_SAVES_RF: Final = (ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION, ExitReason.TRIPLE_FAULT)
"""Exits that save RF as it is; others are of instructions, and save it clear (SDM Vol. 3C, 28.3.3)."""
_MSRS: Final = int(Saved.MSRS)
_NONCANONICAL: Final = range(1, (1 << 17) - 1)
"""Bits 63..47 of an address that is not canonical."""
_MOV_LENGTH: Final = 3
"""Bytes of a MOV between RAX and memory at a register, as the decoder reports it."""


class Reentered(RuntimeError):
    """A vCPU exits while its previous exit is still being handled: the exit handler made it run instructions."""


def exit_and_enter(cpu: CpuState, reason: ExitReason) -> GuestFault | None:
    """VM exit, exit handler, VM entry. Returns the exception that the entry injects, if any.

    Afterwards the guest state is what the handler left in `vmcs.saved`; changes that it made to the vCPU's registers
    directly are lost. If VM entry does not accept the guest state, that is another exit: the handler stops the vCPU, or
    repairs the state. Raises VmEntryFailure if it does neither, or if `eptp` is invalid, and any exception of the
    handler.
    """
    if cpu.in_root:
        raise Reentered(f"vCPU {cpu.id} exits ({reason.name}) while its exit is being handled")
    machine = cpu.machine
    vmcs = cpu.vmcs
    vmcs.reason = reason
    regs = cpu.regs
    # SDM Vol. 3C, 28.3: saving guest state.
    saved: list[Any] = [
        *regs,
        cpu.cr0,
        cpu.cr2,
        cpu.cr3,
        cpu.cr4,
        cpu.efer,
        cpu.cpl,
        cpu.msrs.copy(),
        cpu.idtr,
        cpu.tr,
        cpu.cs,
        cpu.ss,
    ]
    if regs[RFLAGS] & RFLAGS_RF and reason not in _SAVES_RF:
        saved[RFLAGS] &= ~RFLAGS_RF
    vmcs.saved = saved
    control = saved[RFLAGS:]
    cpu.in_root = True
    clock = machine.clock
    clock.cycles += Cost.VMEXIT
    if not cpu.vpid:
        machine.tlb.flush_vpid(0)  # SDM Vol. 3C, 29.4.3.1; with a VPID, exits and entries invalidate nothing.
    try:
        machine.exit_handler(cpu)
    finally:
        cpu.in_root = False
    clock.cycles += Cost.VMENTRY
    # SDM Vol. 3C, 27.2.1.1: checks on VM-execution control fields.
    if not is_valid_eptp(cpu.eptp):
        raise VmEntryFailure(INVALID_CONTROL)
    if not cpu.vpid:
        machine.tlb.flush_vpid(0)
    saved = vmcs.saved
    # What the handler left as it was needs no check, nor its copy of the MSRs: the guest cannot make it invalid.
    if (
        saved[RFLAGS:] != control or saved[_MSRS] != cpu.msrs or saved[RIP] >> 47 in _NONCANONICAL
    ) and not entry_checks.accepts(saved):
        _fail_entry(cpu)
        if cpu.runnable == STOPPED:
            return None
        saved = vmcs.saved
    regs[:] = saved[:REGISTERS]
    (
        cpu.cr0,
        cpu.cr2,
        cpu.cr3,
        cpu.cr4,
        cpu.efer,
        cpu.cpl,
        cpu.msrs,
        cpu.idtr,
        cpu.tr,
        cpu.cs,
        cpu.ss,
    ) = saved[REGISTERS:]
    fault = cpu.pending_fault
    if fault is not None:
        cpu.pending_fault = None
    elif regs[RIP] >> 47 in _NONCANONICAL:
        # The fault of the first fetch (SDM Vol. 3A, 6.15, interrupt 13), with RF as in every fault (17.3.1.1).
        if cpu.idtr[1]:
            regs[RFLAGS] |= RFLAGS_RF
        return GuestFault(Vector.GP)
    return fault


def _fail_entry(cpu: CpuState) -> None:
    """The VM-entry failure for invalid guest state: an exit that saves nothing (SDM Vol. 3C, 27.8).

    Afterwards the vCPU is stopped, or its state is valid. Raises VmEntryFailure.
    """
    # Nobody enters a vCPU that the handler has stopped.
    if cpu.runnable == STOPPED:
        return
    vmcs = cpu.vmcs
    vmcs.reason = ExitReason.INVALID_GUEST_STATE
    vmcs.qualification = 0
    cpu.pending_fault = None
    machine = cpu.machine
    machine.clock.cycles += Cost.VMEXIT
    cpu.in_root = True
    try:
        machine.exit_handler(cpu)
    finally:
        cpu.in_root = False
    machine.clock.cycles += Cost.VMENTRY
    if cpu.runnable != STOPPED and not entry_checks.accepts(vmcs.saved):
        raise VmEntryFailure(INVALID_GUEST_STATE)


def record_stage_2_exit(
    cpu: CpuState, violation: EptViolation | EptMisconfiguration, gva: int, size: int, access: int
) -> ExitReason:
    """Fill in the VMCS for an exit on `access` to the operand at `gva`; `size` is 0 if no instruction has it.

    Returns the exit reason (SDM Vol. 3C, 28.2.1, table 28-7).
    """
    vmcs = cpu.vmcs
    # SDM Vol. 3C, 28.3.3: what the frame of a fault would have, or does have if an event is being delivered.
    if not vmcs.vectoring:
        cpu.regs[RFLAGS] |= RFLAGS_RF
    vmcs.gpa = violation.gpa
    if isinstance(violation, EptViolation):
        reason = ExitReason.EPT_VIOLATION
        vmcs.qualification = violation.qualification
        vmcs.gva = gva if violation.gva is None else violation.gva
    else:
        reason = ExitReason.EPT_MISCONFIGURATION
        vmcs.qualification = 0
        vmcs.gva = 0
    vmcs.operand = gva
    vmcs.width = 0 if access == EXEC else size
    vmcs.write = access == WRITE
    vmcs.length = _MOV_LENGTH
    return reason
