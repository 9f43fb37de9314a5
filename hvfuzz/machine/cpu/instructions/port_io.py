"""Port I/O: IN and OUT of one element, INS and OUTS of a string of them (SDM Vol. 1, ch. 19; Vol. 3C, 28.2.1)."""

from typing import Final

from hvfuzz.machine.addresses import SIZE_MASK, U64
from hvfuzz.machine.cpu.exception_delivery import exit_if_intercepted, refuse
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.instructions.load_store import load, store
from hvfuzz.machine.cpu.instructions.rings import IOPL_SHIFT
from hvfuzz.machine.cpu.processor_state import CpuState
from hvfuzz.machine.cpu.registers import RAX, RCX, RDI, RDX, RFLAGS, RSI
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu import paging

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
    _require_io_privilege(cpu, size)
    regs, vmcs = cpu.regs, cpu.vmcs
    regs[RDX], regs[register], regs[RCX] = port & 0xFFFF, gva & U64, count & U64
    while regs[RCX]:
        left = regs[RCX]
        _record_port_operand(cpu, port, size, register == RSI)
        vmcs.string = True
        vmcs.operand = regs[register]
        vmcs.qualification |= _STRING_AND_REP
        if not exit_if_intercepted(cpu, ExitReason.IO, 2):
            _move_unanswered(cpu, register, size)
        if regs[RCX] == left:
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
    """Check, and exit if intercepted: whether an exit handler performed this access to a port."""
    _require_io_privilege(cpu, size)
    _record_port_operand(cpu, port, size, write)
    cpu.vmcs.string = False
    return exit_if_intercepted(cpu, ExitReason.IO, 1)


def _require_io_privilege(cpu: CpuState, size: int) -> None:
    """#UD for an impossible size, #GP(0) if the ring is above IOPL (SDM Vol. 1, 19.5.1)."""
    if size not in (1, 2, 4):
        refuse(cpu, Vector.UD)
    if cpu.cpl > cpu.regs[RFLAGS] >> IOPL_SHIFT & 3:
        refuse(cpu, Vector.GP)  # There is no I/O permission bit map.


def _record_port_operand(cpu: CpuState, port: int, size: int, write: bool) -> None:
    vmcs = cpu.vmcs
    vmcs.port = port & 0xFFFF
    vmcs.width = size
    vmcs.write = write
    # SDM Vol. 3C, table 28-5: bits 2..0 size - 1, bit 3 direction, bit 4 string, bit 5 REP, bits 31..16 port.
    vmcs.qualification = (size - 1) | (0 if write else 8) | vmcs.port << 16
