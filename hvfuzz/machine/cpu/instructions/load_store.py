"""Loads, stores and fetches: MOV through both stages of translation, with the exits that it may take.

An operand that crosses a page is translated wholly before any of it is accessed. If the handler of an EPT violation
moved RIP, it performed the access (a load's result is in RAX); else the access is retried. Where no memory answers,
reads give ones and writes are dropped.
"""

from contextlib import suppress
from typing import Final

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, PAGE_SIZE, READ, SIZE_MASK, U64, WRITE, is_canonical
from hvfuzz.machine.cpu.delivery_accesses import STAGE_2_RETRIES
from hvfuzz.machine.cpu.exception_delivery import refuse, take, vm_exit
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector
from hvfuzz.machine.cpu.processor_state import USER, CpuState
from hvfuzz.machine.cpu.registers import RAX, RFLAGS, RIP
from hvfuzz.machine.cpu.vmx_transitions import record_stage_2_exit
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.physical_memory import BusError

_EMULATED: Final = -1
"""Instead of an Hpa: the exit handler performed the access."""


def load(cpu: CpuState, gva: int, size: int = 8) -> int:
    """MOV from memory: `size` (1, 2, 4, 8) bytes at `gva`, zero-extended, into RAX, and returned."""
    if gva & (size - 1):
        return _load_unaligned(cpu, gva, size)
    hpa = reach(cpu, gva, size, READ)
    if hpa == _EMULATED:
        return cpu.regs[RAX] & SIZE_MASK[size]
    observer = cpu.machine.access_observer
    if observer is not None:
        observer(cpu, hpa, size, READ)
    try:
        value = cpu.memory.words[hpa >> 3] if size == 8 else cpu.memory.load(hpa, size)
    except (BusError, IndexError):
        value = SIZE_MASK[size]
    cpu.regs[RAX] = value
    return value


def store(cpu: CpuState, gva: int, size: int, value: int) -> None:
    """MOV to memory: the low `size` (1, 2, 4, 8) bytes of `value`, which goes to RAX first, to `gva`."""
    cpu.regs[RAX] = value = value & U64
    if gva & (size - 1):
        _store_unaligned(cpu, gva, size, value)
        return
    hpa = reach(cpu, gva, size, WRITE)
    if hpa == _EMULATED:
        return
    observer = cpu.machine.access_observer
    if observer is not None:
        observer(cpu, hpa, size, WRITE)
    try:
        if size == 8:
            cpu.memory.store64(hpa, value)
        else:
            cpu.memory.store(hpa, size, value)
    except BusError:
        return  # Nothing answers at this address: the write is lost.


def execute(cpu: CpuState, gva: int) -> None:
    """Probe that an instruction can be fetched from `gva` (as a jump there and back would)."""
    hpa = reach(cpu, gva, 1, EXEC)
    observer = cpu.machine.access_observer
    if observer is not None and hpa != _EMULATED:
        observer(cpu, hpa, 1, EXEC)


def reach(cpu: CpuState, gva: int, size: int, access: int) -> int:
    """The Hpa of an operand that lies within a page, after the exits it takes; or _EMULATED."""
    attempts = 0
    while True:
        try:
            return cpu.mmu.translate(cpu, gva, access, cpu.cpl == USER)
        except GuestFault as fault:
            take(cpu, fault)
            raise
        except (EptViolation, EptMisconfiguration) as violation:
            if attempts == STAGE_2_RETRIES:
                refuse(cpu, Vector.MC)
            attempts += 1
            if _exit_on_stage_2(cpu, violation, gva, size, access):
                return _EMULATED


def _reach_unaligned(cpu: CpuState, gva: int, size: int, access: int) -> tuple[tuple[int, int], ...]:
    """The pieces (hpa, bytes) of an unaligned operand, all translated before any is accessed; () if emulated."""
    user = cpu.cpl == USER
    # #AC (SDM Vol. 3A, 6.15, interrupt 17); a non-canonical address is #GP instead, which `translate` raises.
    if user and cpu.cr0 & paging.CR0_AM and cpu.regs[RFLAGS] & paging.RFLAGS_AC and is_canonical(gva):
        refuse(cpu, Vector.AC)
    offset = gva & PAGE_MASK
    first = min(size, PAGE_SIZE - offset)
    attempts = 0
    while True:
        try:
            pieces: tuple[tuple[int, int], ...] = ((cpu.mmu.translate(cpu, gva, access, user), first),)
            if first < size:
                second = (gva + first) & U64
                pieces += ((cpu.mmu.translate(cpu, second, access, user), size - first),)
            return pieces
        except GuestFault as fault:
            take(cpu, fault)
            raise
        except (EptViolation, EptMisconfiguration) as violation:
            if attempts == STAGE_2_RETRIES:
                refuse(cpu, Vector.MC)
            attempts += 1
            if _exit_on_stage_2(cpu, violation, gva, size, access):
                return ()


def _load_unaligned(cpu: CpuState, gva: int, size: int) -> int:
    pieces = _reach_unaligned(cpu, gva, size, READ)
    if not pieces:
        return cpu.regs[RAX] & SIZE_MASK[size]
    data = b""
    observer = cpu.machine.access_observer
    for hpa, n in pieces:
        if observer is not None:
            observer(cpu, hpa, n, READ)
        try:
            data += cpu.memory.read(hpa, n)
        except BusError:
            data += b"\xff" * n
    value = cpu.regs[RAX] = int.from_bytes(data, "little")
    return value


def _store_unaligned(cpu: CpuState, gva: int, size: int, value: int) -> None:
    data = (value & SIZE_MASK[size]).to_bytes(size, "little")
    done = 0
    observer = cpu.machine.access_observer
    for hpa, n in _reach_unaligned(cpu, gva, size, WRITE):
        if observer is not None:
            observer(cpu, hpa, n, WRITE)
        with suppress(BusError):
            cpu.memory.write(hpa, data[done : done + n])
        done += n


def _exit_on_stage_2(
    cpu: CpuState, violation: EptViolation | EptMisconfiguration, gva: int, size: int, access: int
) -> bool:
    """Exit because stage 2 refused part of the operand at `gva`; True if the handler performed the access."""
    reason = record_stage_2_exit(cpu, violation, gva, size, access)
    before = cpu.regs[RIP]
    vm_exit(cpu, reason)
    return cpu.regs[RIP] != before
