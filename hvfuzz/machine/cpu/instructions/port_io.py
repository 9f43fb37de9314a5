"""Port I/O: IN and OUT of one element, INS and OUTS of a string of them (SDM Vol. 1, ch. 19; Vol. 3C, 28.2.1)."""

from typing import Final

from hvfuzz.machine.addresses import SIZE_MASK, U64
from hvfuzz.machine.cpu.delivery_accesses import TakenOver, read_table
from hvfuzz.machine.cpu.exception_delivery import exit_if_intercepted, refuse, take, take_injected
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.instructions.load_store import load, store
from hvfuzz.machine.cpu.instructions.rings import IOPL_SHIFT
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.registers import RAX, RCX, RDI, RDX, RFLAGS, RSI
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging

_MAP_BASE: Final = 0x66
"""Offset in the TSS of the 16-bit offset of the I/O permission bit map (SDM Vol. 3A, 7.7)."""
_STRING_AND_REP: Final = 0x30
"""Bits of the exit qualification (SDM Vol. 3C, table 28-5)."""


def inp(cpu: CpuState, port: int, size: int) -> int:
    """IN: `size` (1, 2, 4) bytes of a port into RAX, and returned; all ones if not intercepted."""
    if _port(cpu, port, size, False):
        return cpu.regs[RAX] & SIZE_MASK[size]
    cpu.regs[RAX] = SIZE_MASK[size]
    return SIZE_MASK[size]


def out(cpu: CpuState, port: int, size: int, value: int) -> None:
    """OUT of the low `size` (1, 2, 4) bytes of `value`, which goes to RAX first; lost if not intercepted."""
    cpu.regs[RAX] = value & SIZE_MASK[size]
    _port(cpu, port, size, True)


def ins(cpu: CpuState, port: int, size: int, gva: int, count: int) -> int:
    """REP INS: `count` elements of `size` bytes from a port to memory at `gva`; returns how many are left."""
    return _string(cpu, port, size, RDI, gva, count)


def outs(cpu: CpuState, port: int, size: int, gva: int, count: int) -> int:
    """REP OUTS: `count` elements of `size` bytes from memory at `gva` to a port; returns how many are left."""
    return _string(cpu, port, size, RSI, gva, count)


def _string(cpu: CpuState, port: int, size: int, register: int, gva: int, count: int) -> int:
    """Exit until RCX is 0 or an exit moves nothing. The handler advances RCX and the address register."""
    regs, vmcs = cpu.regs, cpu.vmcs
    regs[RDX], regs[register], regs[RCX] = port & 0xFFFF, gva & U64, count & U64
    while _may_access(cpu, port & 0xFFFF, size) and regs[RCX]:
        left = regs[RCX]
        _record_port_operand(cpu, port, size, register == RSI)
        vmcs.string = True
        vmcs.operand = regs[register]
        vmcs.qualification |= _STRING_AND_REP
        if not exit_if_intercepted(cpu, ExitReason.IO, 2):
            _move_unanswered(cpu, register, size)
        if regs[RCX] in (0, left):
            break
    return regs[RCX]


def _move_unanswered(cpu: CpuState, register: int, size: int) -> None:
    """Move one element at a port where nothing answers: reads give ones, writes are lost."""
    regs = cpu.regs
    kept = regs[RAX]
    if register == RDI:
        store(cpu, regs[RDI], size, SIZE_MASK[size])
    else:
        load(cpu, regs[RSI], size)
    regs[RAX] = kept
    regs[register] = regs[register] + (-size if regs[RFLAGS] & paging.RFLAGS_DF else size) & U64
    regs[RCX] -= 1


def _port(cpu: CpuState, port: int, size: int, write: bool) -> bool:
    """Check, and exit if intercepted: whether nothing is left to do for this access to a port."""
    if not _may_access(cpu, port & 0xFFFF, size):
        return True
    _record_port_operand(cpu, port, size, write)
    cpu.vmcs.string = False
    return exit_if_intercepted(cpu, ExitReason.IO, 1)


def _may_access(cpu: CpuState, port: int, size: int) -> bool:
    """#UD for an impossible size; #GP(0) unless IOPL or the I/O permission bit map allows the access.

    (SDM Vol. 1, 19.5.) False if the vCPU was stopped while it looked.
    """
    if size not in (1, 2, 4):
        refuse(cpu, Vector.UD)
    if cpu.cpl <= cpu.regs[RFLAGS] >> IOPL_SHIFT & 3:
        return True
    try:
        allowed = _in_bit_map(cpu, port, size)
    except GuestFault as fault:
        take(cpu, fault)
        raise
    except TakenOver as taken:
        if taken.fault is None:
            return False
        take_injected(cpu, taken.fault)
        raise taken.fault from None
    if not allowed:
        refuse(cpu, Vector.GP)
    return True


def _in_bit_map(cpu: CpuState, port: int, size: int) -> bool:
    """Whether the bits of all `size` ports are clear, and the map has them. Raises GuestFault, TakenOver."""
    base, limit = cpu.tr
    if limit < _MAP_BASE + 1:
        return False
    place = int.from_bytes(read_table(cpu, base + _MAP_BASE, 2), "little") + (port >> 3)
    # Two bytes are read, whatever the port: the map ends with a byte of ones within the limit (19.5.2).
    if place + 1 > limit:
        return False
    bits = int.from_bytes(read_table(cpu, base + place, 2), "little")
    return not bits >> (port & 7) & ((1 << size) - 1)


def _record_port_operand(cpu: CpuState, port: int, size: int, write: bool) -> None:
    vmcs = cpu.vmcs
    vmcs.port = port & 0xFFFF
    vmcs.width = size
    vmcs.write = write
    # SDM Vol. 3C, table 28-5: bits 2..0 size - 1, bit 3 direction, bit 4 string, bit 5 REP, bits 31..16 port.
    vmcs.qualification = (size - 1) | (0 if write else 8) | vmcs.port << 16
