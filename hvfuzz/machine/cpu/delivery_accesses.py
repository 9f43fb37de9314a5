"""Memory accesses that the processor makes itself to deliver an exception: to the IDT, the TSS and the handler's stack.

They go through both stages of translation and may exit. What such an exit does to the guest replaces the delivery.
"""

from contextlib import suppress
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, READ, U64, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.cpu.vmx_transitions import exit_and_enter, record_stage_2_exit
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.physical_memory import BusError

STAGE_2_RETRIES: Final = 4
"""How often an access that violates stage 2 is retried after its exit, before it becomes a machine check."""


class TakenOver(Exception):
    """The handler of an exit injected `fault` instead of the exception being delivered, or stopped the vCPU (None)."""

    def __init__(self, fault: GuestFault | None) -> None:
        super().__init__()
        self.fault = fault


def read_table(cpu: CpuState, gva: int, size: int) -> bytes:
    """Read `size` bytes of the IDT or the TSS: implicit supervisor-mode accesses (SDM Vol. 3A, 4.6).

    A fetch: another vCPU may store to the table just before. Raises GuestFault, TakenOver.
    """
    cpu.machine.fetches.before()
    data = b""
    for hpa, length in _pieces(cpu, gva & U64, size, READ, True):
        try:
            data += cpu.memory.read(hpa, length)
        except BusError:
            data += b"\xff" * length
    return data


def write_frame(cpu: CpuState, gva: int, data: bytes) -> None:
    """Write the handler's stack frame, all or nothing. Raises GuestFault, TakenOver."""
    done = 0
    for hpa, length in _pieces(cpu, gva, len(data), WRITE, False):
        with suppress(BusError):  # Where nothing answers, the write is lost.
            cpu.memory.write(hpa, data[done : done + length])
        done += length


def _pieces(cpu: CpuState, gva: int, size: int, access: int, implicit: bool) -> list[tuple[int, int]]:
    """The pieces (hpa, bytes) of an operand, all translated before any is accessed."""
    pieces = []
    while size:
        length = min(size, PAGE_SIZE - (gva & PAGE_MASK))
        pieces.append((_locate(cpu, gva, access, implicit), length))
        gva, size = (gva + length) & U64, size - length
    observer = cpu.machine.access_observer
    if observer is not None:
        for hpa, length in pieces:
            observer(cpu, hpa, length, access)
    return pieces


def _locate(cpu: CpuState, gva: int, access: int, implicit: bool) -> int:
    """The Hpa of `gva` for a supervisor-mode access, after the exits it takes."""
    regs = cpu.regs
    attempts = 0
    while True:
        flags = regs[RFLAGS]
        if implicit:
            regs[RFLAGS] = flags & ~paging.RFLAGS_AC  # SMAP applies even if AC is set (SDM Vol. 3A, 4.6.1).
        try:
            return cpu.mmu.translate(cpu, gva, access, False)
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
