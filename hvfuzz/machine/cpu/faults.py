"""The exceptions that the hardware raises. The first three are for what a guest did: none of them is an error of ours.

GuestFault             an exception of the guest's own (#PF, #GP, #UD, ...): ends the guest's instruction
EptViolation           VM exit 48: stage 2 does not allow the access
EptMisconfiguration    VM exit 49: a present stage-2 entry is not well-formed
VmEntryFailure         the hypervisor asked for a VM entry that the processor refuses
"""

from enum import IntEnum
from typing import Final

INVALID_CONTROL: Final = 7
"""VM-instruction error: VM entry with an invalid control field (SDM Vol. 3C, 31.4)."""


class Vector(IntEnum):
    """Exception vectors (SDM Vol. 3A, table 6-1)."""

    UD = 6
    """Invalid opcode."""
    DF = 8
    """Double fault: an exception in the delivery of another one."""
    TS = 10
    """Invalid TSS: it has not the stack that is asked for."""
    NP = 11
    """Not present: a gate."""
    SS = 12
    """Stack: its address is not canonical."""
    GP = 13
    """General protection."""
    PF = 14
    """Page fault; CR2 holds the address."""
    AC = 17
    """Alignment check."""
    MC = 18
    """Machine check: here, an access that still violates stage 2 after its exits were handled."""


class GuestFault(Exception):
    """An exception of the guest: `vector`, the `error` code it pushes, and for #PF the `address` for CR2."""

    __snapshot_leaf__ = True

    def __init__(self, vector: int, error: int = 0, address: int = 0) -> None:
        super().__init__(vector, error, address)
        self.vector = vector
        self.error = error
        self.address = address

    def __str__(self) -> str:
        try:
            name = f"#{Vector(self.vector).name}"
        except ValueError:
            name = f"vector {self.vector}"
        where = f" at {self.address:#x}" if self.vector == Vector.PF else ""
        return f"{name}({self.error:#x}){where}"


class EptViolation(Exception):
    """Stage 2 refuses the access to `gpa`; `gva` is None if no linear address belongs to it.

    `qualification` is the exit qualification (SDM Vol. 3C, table 28-7; bits in `ept.Qualification`).
    """

    __snapshot_leaf__ = True

    def __init__(self, gpa: int, gva: int | None, qualification: int) -> None:
        super().__init__(gpa, gva, qualification)
        self.gpa = gpa
        self.gva = gva
        self.qualification = qualification

    def __str__(self) -> str:
        linear = "none" if self.gva is None else f"{self.gva:#x}"
        return f"EPT violation at gpa {self.gpa:#x} (gva {linear}, qualification {self.qualification:#x})"


class EptMisconfiguration(Exception):
    """A present EPT entry used to translate `gpa` is not well-formed (SDM Vol. 3C, 29.3.3.1)."""

    __snapshot_leaf__ = True

    def __init__(self, gpa: int) -> None:
        super().__init__(gpa)
        self.gpa = gpa

    def __str__(self) -> str:
        return f"EPT misconfiguration at gpa {self.gpa:#x}"


class VmEntryFailure(Exception):
    """VM entry is refused: `error` is the VM-instruction error number (SDM Vol. 3C, 27.2 and 31.4)."""

    __snapshot_leaf__ = True

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return f"VM entry fails with VM-instruction error {self.error}"


_CONTRIBUTORY: Final = (0, Vector.TS, Vector.NP, Vector.SS, Vector.GP)


def combined(first: int, second: GuestFault) -> GuestFault | None:
    """What the guest gets for `second`, in the delivery of an exception with the vector `first`; None: a triple fault.

    (SDM Vol. 3A, tables 6-4 and 6-5.)
    """
    if first == Vector.DF:
        return None if second.vector in (*_CONTRIBUTORY, Vector.PF) else second
    if first in _CONTRIBUTORY:
        return GuestFault(Vector.DF) if second.vector in _CONTRIBUTORY else second
    if first == Vector.PF and second.vector in (*_CONTRIBUTORY, Vector.PF):
        return GuestFault(Vector.DF)
    return second
