"""Python exceptions that model events of the hardware.

GuestFault             an exception of the guest (#PF, #GP, #UD, ...): ends the guest's instruction
EptViolation           VM exit 48: stage 2 does not allow the access
EptMisconfiguration    VM exit 49: a present stage-2 entry is malformed
VmEntryFailure         the processor refuses a VM entry for good, which is a bug of the hypervisor
"""

from enum import IntEnum
from typing import Final

INVALID_CONTROL: Final = 7
"""VM-instruction error: VM entry with an invalid control field (SDM Vol. 3C, 31.4)."""
INVALID_GUEST_STATE: Final = 0x8000_0021
"""Exit reason: VM-entry failure due to invalid guest state (SDM Vol. 3C, 27.8)."""


class Vector(IntEnum):
    """Exception vectors (SDM Vol. 3A, table 6-1)."""

    UD = 6
    """Invalid opcode."""
    DF = 8
    """Double fault: an exception during the delivery of another one."""
    TS = 10
    """Invalid TSS: it lacks the stack that the gate asks for."""
    NP = 11
    """A gate that is not present."""
    SS = 12
    """Stack fault: a stack address that is not canonical."""
    GP = 13
    """General protection."""
    PF = 14
    """Page fault; CR2 has the address."""
    AC = 17
    """Alignment check."""
    MC = 18
    """Machine check: here, an access that still violates stage 2 after several exits."""


class GuestFault(Exception):
    """An exception of the guest: `vector`, the `error` code that it pushes, and for #PF the `address` for CR2."""

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
    """Stage 2 refuses an access to `gpa`, which belongs to the linear address `gva`, or to none if that is None.

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
    """A present EPT entry used to translate `gpa` is malformed (SDM Vol. 3C, 29.3.3.1)."""

    __snapshot_leaf__ = True

    def __init__(self, gpa: int) -> None:
        super().__init__(gpa)
        self.gpa = gpa

    def __str__(self) -> str:
        return f"EPT misconfiguration at gpa {self.gpa:#x}"


class VmEntryFailure(Exception):
    """A VM entry fails, and the hypervisor cannot go on.

    `error` is the VM-instruction error number (SDM Vol. 3C, 27.2 and 31.4), or INVALID_GUEST_STATE if the hypervisor
    tries the entry again that failed so.
    """

    __snapshot_leaf__ = True

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        if self.error == INVALID_GUEST_STATE:
            return f"VM entry fails again with exit reason {self.error:#x}"
        return f"VM entry fails with VM-instruction error {self.error}"


_CONTRIBUTORY: Final = (0, Vector.TS, Vector.NP, Vector.SS, Vector.GP)


def combined(first: int, second: GuestFault) -> GuestFault | None:
    """The exception that `second` becomes during the delivery of one with the vector `first`; None: a triple fault.

    SDM Vol. 3A, tables 6-4 and 6-5.
    """
    if first == Vector.DF:
        return None if second.vector in (*_CONTRIBUTORY, Vector.PF) else second
    if first in _CONTRIBUTORY:
        return GuestFault(Vector.DF) if second.vector in _CONTRIBUTORY else second
    if first == Vector.PF and second.vector in (*_CONTRIBUTORY, Vector.PF):
        return GuestFault(Vector.DF)
    return second
