"""Memory accesses that the processor makes itself: to the IDT, the TSS and the stack of an exception's handler.

They go through both stages of translation and may exit. What such an exit does to the guest replaces what the access
was for.
"""

from contextlib import suppress
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, WORD, WRITE, is_canonical
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.cpu.vmx_transitions import exit_and_enter, record_stage_2_exit
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.physical_memory import BusError

STAGE_2_RETRIES: Final = 4
"""How often an access that violates stage 2 is retried after its exit, before it becomes a machine check."""


class TakenOver(Exception):
    """The handler of an exit on the way injected `fault`, or stopped the vCPU (None)."""

    def __init__(self, fault: GuestFault | None) -> None:
        super().__init__()
        self.fault = fault


def read_table(cpu: CpuState, gva: int, size: int) -> bytes:
    """Read `size` bytes of the IDT or the TSS: implicit supervisor-mode accesses (SDM Vol. 3A, 4.6).

    Raises GuestFault, TakenOver.
    """
    gva &= U64
    pieces = []
    while size:
        length = min(size, PAGE_SIZE - (gva & PAGE_MASK))
        pieces.append((_locate(cpu, gva, READ, implicit=True), length))
        gva, size = (gva + length) & U64, size - length
    data = b""
    observer = cpu.machine.access_observer
    for hpa, length in pieces:
        if observer is not None:
            observer(cpu, hpa, length, READ)
        try:
            data += cpu.memory.read(hpa, length)
        except BusError:
            data += b"\xff" * length
    return data


def push(cpu: CpuState, top: int, words: tuple[int, ...], user: bool, error: int) -> int:
    """Push `words` onto the stack below `top`, one after the other, for a handler in ring 3 (`user`) or 0.

    Returns the new top. If one cannot be pushed, those before it are in memory already. Raises GuestFault, which is #SS
    with `error` at an address that is not canonical, and TakenOver.
    """
    observer = cpu.machine.access_observer
    for word in words:
        top = (top - WORD) & U64
        if not is_canonical(top):
            raise GuestFault(Vector.SS, error)
        hpa = _locate(cpu, top, WRITE, user=user)
        if observer is not None:
            observer(cpu, hpa, WORD, WRITE)
        with suppress(BusError):  # Where nothing answers, the write is lost.
            cpu.memory.store64(hpa, word)
    return top


def _locate(cpu: CpuState, gva: int, access: int, *, user: bool = False, implicit: bool = False) -> int:
    """The Hpa of `gva`, after the exits that the access takes."""
    regs = cpu.regs
    attempts = 0
    while True:
        flags = regs[RFLAGS]
        if implicit:
            regs[RFLAGS] = flags & ~paging.RFLAGS_AC  # SMAP applies even if AC is set (SDM Vol. 3A, 4.6.1).
        try:
            return cpu.mmu.translate(cpu, gva, access, user)
        except (EptViolation, EptMisconfiguration) as caught:
            violation = caught
        finally:
            regs[RFLAGS] = flags
        if attempts == STAGE_2_RETRIES:
            raise GuestFault(Vector.MC)
        attempts += 1
        fault = exit_and_enter(cpu, record_stage_2_exit(cpu, violation, gva, 0, access))
        if fault is not None:
            raise TakenOver(fault)
        if cpu.runnable:
            raise TakenOver(None)
