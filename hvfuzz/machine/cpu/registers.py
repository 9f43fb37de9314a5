"""The registers of a vCPU: their indices in `regs`, and in the guest state that a VM exit saves."""

from enum import IntEnum
from typing import Final


class Reg(IntEnum):
    """Index of a register in `CpuState.regs` and `Vmcs.saved`; general registers in the order of their encoding."""

    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    RIP = 16
    RFLAGS = 17


class Saved(IntEnum):
    """Index in `Vmcs.saved` of the state that follows the registers."""

    CR0 = 18
    CR2 = 19
    CR3 = 20
    CR4 = 21
    EFER = 22
    CPL = 23
    MSRS = 24
    """A copy of the dict {MSR index: value}."""
    IDTR = 25
    """A tuple (base, limit), as TR."""
    TR = 26
    CS = 27
    """Selectors; the attributes follow from CPL, which is the DPL of SS."""
    SS = 28


# Plain ints for hot code: indexing a list by an IntEnum member costs twice as much.
RAX: Final = 0
RCX: Final = 1
RDX: Final = 2
RBX: Final = 3
RSP: Final = 4
RSI: Final = 6
RDI: Final = 7
R11: Final = 11
RIP: Final = 16
RFLAGS: Final = 17
REGISTERS: Final = 18
"""Number of registers in `regs`."""
