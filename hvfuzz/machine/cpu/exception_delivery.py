"""Exceptions of the guest: what raises them, and their delivery to the guest's handlers (SDM Vol. 3A, 6.14).

Without an IDT, as at boot, an exception just ends its instruction: the boot environment has a handler that goes on
with the program. With an IDT, the vCPU continues in the guest's handler, on the stack that the gate or the TSS names,
with a frame for IRET on it.

The gate and the TSS are read, and the frame is written, through both stages of translation (`delivery_accesses`). A
second exception on the way combines with the first into the next exception, a double fault, or a triple fault, which
is VM exit 2. An exit on the way has the IDT-vectoring information of the event being delivered, and the exit handler
becomes responsible for that event.
"""

from struct import Struct
from typing import Final, NoReturn

from hvfuzz.machine.addresses import U64, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.delivery_accesses import TakenOver, push, read_table
from hvfuzz.machine.cpu.faults import GuestFault, Vector, combined
from hvfuzz.machine.cpu.processor_state import USER, CpuState
from hvfuzz.machine.cpu.registers import RFLAGS, RIP, RSP
from hvfuzz.machine.cpu.segments import CODE_RINGS, INDEX
from hvfuzz.machine.cpu.vmcs import VECTORING_ERROR, VECTORING_EXCEPTION, VECTORING_SOFTWARE, ExitReason
from hvfuzz.machine.cpu.vmx_transitions import exit_and_enter
from hvfuzz.machine.mmu import paging

TSS_SELECTOR: Final = 0x40
"""The selector of the TSS in error codes."""
_GATE: Final = Struct("<HHBBHII")
"""Offset 15..0, selector, IST, type and attributes, offset 31..16, offset 63..32, reserved (SDM Vol. 3A, 6.14.1)."""
_INTERRUPT_GATE: Final = 0xE
_TRAP_GATE: Final = 0xF
_RSP0: Final = 4
_IST1: Final = 0x24
"""Offsets in the TSS (SDM Vol. 3A, 7.7)."""
_IN_IDT: Final = 2
_EXTERNAL: Final = 1
"""Bits of an error code (SDM Vol. 3A, 6.13): the index is one of the IDT; no instruction asked for the event."""
_CLEARED: Final = 1 << 8 | paging.RFLAGS_NT | paging.RFLAGS_RF | paging.RFLAGS_VM
"""TF, NT, RF and VM."""
_EVENTS: Final = 16
"""Events that replace each other in one delivery, before it is a shutdown: more than a correct hypervisor causes."""
_ERROR_CODE: Final = (8, 10, 11, 12, 13, 14, 17)
"""Vectors of exceptions that push an error code (SDM Vol. 3A, table 6-1)."""


def vm_exit(cpu: CpuState, reason: ExitReason) -> None:
    """Exit for `reason`; return when the vCPU is entered again.

    Raises GuestFault if the entry injects an exception, VmEntryFailure, and any exception of the exit handler.
    """
    fault = exit_and_enter(cpu, reason)
    if fault is not None:
        take_injected(cpu, fault)
        raise fault


def exit_if_intercepted(cpu: CpuState, reason: ExitReason, length: int, asked: bool = False) -> bool:
    """Charge for an instruction of `length` bytes, and exit for `reason` if `asked` or if the VMCS intercepts it."""
    cpu.machine.clock.cycles += Cost.INSTRUCTION
    if not asked and not cpu.vmcs.intercepts >> reason & 1:
        return False
    cpu.vmcs.length = length
    vm_exit(cpu, reason)
    return True


def refuse(cpu: CpuState, vector: int, error: int = 0) -> NoReturn:
    """Take and raise an exception of the present instruction, with this error code."""
    fault = GuestFault(vector, error)
    take(cpu, fault)
    raise fault


def require_ring_0(cpu: CpuState) -> None:
    """#GP(0) outside ring 0 (SDM Vol. 3A, 5.9)."""
    if cpu.cpl:
        refuse(cpu, Vector.GP)


def take(cpu: CpuState, fault: GuestFault) -> None:
    """The guest gets an exception that the processor found: note it, and deliver it. The caller raises it."""
    if fault.vector == Vector.PF:
        cpu.cr2 = fault.address
    # The frame of a fault has RF set (SDM Vol. 3A, 17.3.1.1).
    if cpu.idtr[1]:
        cpu.regs[RFLAGS] |= paging.RFLAGS_RF
    take_injected(cpu, fault)


def take_injected(cpu: CpuState, fault: GuestFault) -> None:
    """The guest gets an exception that VM entry injects: charge it, and deliver it if there is an IDT.

    VM entry loads no CR2, and pushes RF as it is; the hypervisor sets both (SDM Vol. 3C, 27.6.1.1).
    """
    cpu.machine.clock.cycles += Cost.EXCEPTION
    if cpu.idtr[1]:
        deliver(cpu, fault)


def deliver(cpu: CpuState, fault: GuestFault) -> None:
    """Enter the handler of an exception, or of the one that replaces it when something fails on the way.

    It ends in a handler, with the vCPU stopped, or in a triple fault.
    """
    vmcs = cpu.vmcs
    try:
        for _ in range(_EVENTS):
            has_error = fault.vector in _ERROR_CODE
            vmcs.vectoring = VECTORING_EXCEPTION | fault.vector | (VECTORING_ERROR if has_error else 0)
            vmcs.vectoring_error = fault.error
            after: GuestFault | None
            try:
                enter_handler(cpu, fault.vector, fault.error, False)
                return
            except GuestFault as second:
                if second.vector == Vector.PF:
                    cpu.cr2 = second.address
                cpu.regs[RFLAGS] |= paging.RFLAGS_RF
                after = combined(fault.vector, second)
                if after is None:
                    vmcs.vectoring = 0
                    after = exit_and_enter(cpu, ExitReason.TRIPLE_FAULT)
            except TakenOver as taken:
                after = taken.fault
            if after is None:
                return
            fault = after
        vmcs.vectoring = 0
        exit_and_enter(cpu, ExitReason.TRIPLE_FAULT)
    finally:
        vmcs.vectoring = 0


def enter_handler(cpu: CpuState, vector: int, error: int, software: bool) -> None:
    """Go to the handler of `vector`, with RFLAGS in the frame as they are.

    If that raises GuestFault or TakenOver, only memory may have changed. The order of the checks is that of INT n in
    SDM Vol. 2A.
    """
    external = 0 if software else _EXTERNAL
    about = vector << 3 | _IN_IDT | external
    base, limit = cpu.idtr
    # The gate: within the limit, of the right type, of a DPL that INT may use, present.
    if (vector << 4) + 15 > limit:
        raise GuestFault(Vector.GP, about)
    low, selector, ist, kind, middle, high, _ = _GATE.unpack(read_table(cpu, base + (vector << 4), 16))
    if kind & 0x1F not in (_INTERRUPT_GATE, _TRAP_GATE) or (software and kind >> 5 & 3 < cpu.cpl):
        raise GuestFault(Vector.GP, about)
    if not kind & 0x80:
        raise GuestFault(Vector.NP, about)
    # Its code segment: one of this ring or an inner one.
    ring = CODE_RINGS.get(selector & INDEX)
    if ring is None or ring > cpu.cpl:
        raise GuestFault(Vector.GP, selector & INDEX | external)
    regs = cpu.regs
    flags = regs[RFLAGS]
    # The stack (6.14.2: aligned to 16 bytes), then the address of the handler.
    top = _stack(cpu, ist & 7, ring, external) & ~15
    frame: tuple[int, ...] = (cpu.ss, regs[RSP], flags, cpu.cs, regs[RIP] + (2 if software else 0) & U64)
    if vector in _ERROR_CODE and not software:
        frame += (error,)
    target = low | middle << 16 | high << 32
    if not is_canonical(target):
        raise GuestFault(Vector.GP, external)
    bottom = push(cpu, top, frame, ring == USER, external)
    cpu.machine.clock.cycles += Cost.EXCEPTION
    flags &= ~_CLEARED
    if kind & 0x1F == _INTERRUPT_GATE:
        flags &= ~paging.RFLAGS_IF  # SDM Vol. 3A, 6.12.1.3.
    regs[RIP], regs[RSP], regs[RFLAGS] = target, bottom, flags
    cpu.cs = selector & INDEX | ring
    if ring != cpu.cpl:
        cpu.ss = ring  # SDM Vol. 3A, 6.14.4: a null selector whose RPL is the new CPL.
        cpu.cpl = ring


def _stack(cpu: CpuState, ist: int, ring: int, external: int) -> int:
    """Top of the handler's stack: of the IST entry, RSP0 on a change of ring, or the present one (6.14.4, 6.14.5)."""
    if not ist and ring == cpu.cpl:
        return cpu.regs[RSP]
    base, limit = cpu.tr
    offset = _IST1 + 8 * (ist - 1) if ist else _RSP0
    if offset + 7 > limit:
        raise GuestFault(Vector.TS, TSS_SELECTOR | external)
    stack = int.from_bytes(read_table(cpu, base + offset, 8), "little")
    if not is_canonical(stack):
        raise GuestFault(Vector.SS, external)
    return stack


# Instructions.


def lidt(cpu: CpuState, base: int, limit: int) -> None:
    """LIDT with its operand as arguments: address of the IDT, and offset of its last byte; limit 0 means no IDT."""
    require_ring_0(cpu)
    if not is_canonical(base):
        refuse(cpu, Vector.GP)
    cpu.machine.clock.cycles += Cost.PRIVILEGED
    cpu.idtr = (base & U64, limit & 0xFFFF)


def ltr(cpu: CpuState, base: int, limit: int) -> None:
    """LTR with the descriptor as arguments: the TSS, which holds the stacks of handlers."""
    require_ring_0(cpu)
    if not is_canonical(base):
        refuse(cpu, Vector.GP)
    cpu.machine.clock.cycles += Cost.PRIVILEGED
    cpu.tr = (base & U64, limit & 0xFFFF)


def interrupt(cpu: CpuState, vector: int) -> None:
    """INT n; #GP if the DPL of the gate is below the present ring (SDM Vol. 2A, INT n)."""
    vector &= 0xFF
    vmcs = cpu.vmcs
    cpu.regs[RFLAGS] &= ~paging.RFLAGS_RF  # At its start (SDM Vol. 3A, 17.3.1.1).
    vmcs.vectoring = VECTORING_SOFTWARE | vector
    try:
        enter_handler(cpu, vector, 0, True)
    except GuestFault as fault:
        vmcs.vectoring = 0
        take(cpu, fault)
        raise
    except TakenOver as taken:
        vmcs.vectoring = 0
        if taken.fault is not None:
            take_injected(cpu, taken.fault)
            raise taken.fault from None
    finally:
        vmcs.vectoring = 0
