"""The information of a VM exit, copied when it begins: what the handler writes over it changes no judgement."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from hvfuzz.machine.cpu.vmcs import ExitReason

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vmcs import Vmcs


class ExitFields(NamedTuple):
    """The fields of `Vmcs` that an exit sets (SDM Vol. 3C, 25.9), and what a decoder finds at RIP."""

    reason: ExitReason = ExitReason.EXTERNAL_INTERRUPT
    qualification: int = 0
    gpa: int = 0
    gva: int = 0
    vectoring: int = 0
    vectoring_error: int = 0
    operand: int = 0
    length: int = 0
    width: int = 0
    write: bool = False
    port: int = 0
    string: bool = False
    leaf: int = 0


NO_EXIT: Final = ExitFields()
_FIELDS: Final = attrgetter(*ExitFields._fields)


def exit_fields(vmcs: Vmcs) -> ExitFields:
    """Copy the exit information; `tuple.__new__` takes half the time of the constructor."""
    return tuple.__new__(ExitFields, _FIELDS(vmcs))


def in_hex(value: object) -> str:
    """A saved value for a message: addresses and contents of registers in hexadecimal."""
    return hex(value) if isinstance(value, int) else str(value)
