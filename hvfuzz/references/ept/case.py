"""A case: one access of a guest under its own EPT and control registers; and its outcome."""

from enum import IntEnum
from typing import Final, NamedTuple

from hvfuzz.machine.cpu.processor_state import CR0_AT_START, EFER_AT_START, RFLAGS_FIXED
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.references.ept.memory_map import EPT_ROOT, GVA_LOW, NAMES, Part, gpa_of

RAX: Final = 0x5A5A_5A5A_5A5A_5A5A
"""RAX before the access; not canonical, so that code of zeros (ADD [RAX], AL) ends in #GP(0)."""
SIZE: Final = 8
"""Bytes of every load and store."""


class Kind(IntEnum):
    """The guest's access; its routine in guest.asm is at offset 16 times the value."""

    LOAD = 0
    STORE = 1
    FETCH = 2
    UPDATE = 3
    """A load, then a store of the loaded value plus 1, which must set dirty flags through a cached translation."""
    PDPTES = 4
    """MOV to CR3 with PAE paging, which loads the PDPTEs: a guest-physical access without a linear address."""


class Case(NamedTuple):
    """Registers and table entries of one VM entry; all other entries are those of `memory_map.TEMPLATE`."""

    what: str
    """What the case varies."""
    kind: Kind
    user: bool = False
    gva: int = GVA_LOW
    """Linear address of the access; for PDPTES the gpa."""
    eptp: int = ept.eptp_of(EPT_ROOT)
    cr0: int = CR0_AT_START
    cr3: int = gpa_of(Part.PML4)
    cr4: int = paging.CR4_PAE
    efer: int = EFER_AT_START
    rflags: int = RFLAGS_FIXED
    entries: tuple[tuple[int, int], ...] = ()
    """(hpa, value) of the entries that differ from the template, in ascending order."""

    def __str__(self) -> str:
        entries = " ".join(f"{NAMES[hpa]}={value:#x}" for hpa, value in self.entries)
        return (
            f"{self.what}: {self.kind.name.lower()} at {self.gva:#x}, cpl {3 if self.user else 0}, "
            f"eptp {self.eptp:#x} cr0 {self.cr0:#x} cr3 {self.cr3:#x} cr4 {self.cr4:#x} efer {self.efer:#x} "
            f"rflags {self.rflags:#x} {entries}".rstrip()
        )


class Stop(IntEnum):
    """How a case ends: the basic exit reason, or a failed VM entry."""

    VMCALL = 18
    """The access succeeded, and the guest went on to its VMCALL."""
    EXCEPTION = 0
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    ENTRY_FAILURE = -1
    """VM entry failed."""


class Outcome(NamedTuple):
    """The result of a case; fields that the manual leaves undefined for `stop` are 0."""

    stop: Stop
    rax: int
    memory: tuple[int, ...]
    """The words at `memory_map.WATCHED`, then the words that the case stores to."""
    vector: int = 0
    error: int = 0
    """Error code of an exception, VM-instruction error of a failed entry."""
    address: int = 0
    """Linear address of a #PF."""
    qualification: int = 0
    gpa: int = 0
    gva: int = 0
    """Guest linear address of an EPT violation."""
