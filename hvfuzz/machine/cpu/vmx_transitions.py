"""VM exits and VM entries: the guest state saved, the exit handler called, and the state it leaves loaded."""

from hvfuzz.machine.addresses import EXEC, WRITE
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.faults import INVALID_CONTROL, EptMisconfiguration, EptViolation, GuestFault, VmEntryFailure
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.registers import REGISTERS
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu.ept import is_valid_eptp

_MOV_LENGTH = 3
"""Bytes of a MOV between RAX and memory at a register, as the decoder reports it."""


class Reentered(RuntimeError):
    """A vCPU exits while its previous exit is still being handled: the exit handler made it run instructions."""


def exit_and_enter(cpu: CpuState, reason: ExitReason) -> GuestFault | None:
    """VM exit, exit handler, VM entry. Returns the exception that the entry injects, if any.

    Afterwards the guest state is what the handler left in `vmcs.saved`; changes that it made to the vCPU's registers
    directly are lost. Raises VmEntryFailure if `eptp` is invalid, and any exception of the handler.
    """
    if cpu.in_root:
        raise Reentered(f"vCPU {cpu.id} exits ({reason.name}) while its exit is being handled")
    machine = cpu.machine
    vmcs = cpu.vmcs
    vmcs.reason = reason
    regs = cpu.regs
    # SDM Vol. 3C, 28.3: saving guest state.
    vmcs.saved = [
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
    ]
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
    regs[:] = saved[:REGISTERS]
    cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer, cpu.cpl, cpu.msrs, cpu.idtr, cpu.tr = saved[REGISTERS:]
    fault = cpu.pending_fault
    if fault is not None:
        cpu.pending_fault = None
    return fault


def record_stage_2_exit(
    cpu: CpuState, violation: EptViolation | EptMisconfiguration, gva: int, size: int, access: int
) -> ExitReason:
    """Fill in the VMCS for an exit on `access` to the operand at `gva`; `size` is 0 if no instruction has it.

    Returns the exit reason (SDM Vol. 3C, 28.2.1, table 28-7).
    """
    vmcs = cpu.vmcs
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
