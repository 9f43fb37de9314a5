"""A case and its outcome, in terms that our model and Unicorn share.

Both have the same physical memory: RAM_SIZE bytes of RAM from address 0, and nothing above. After each case all of RAM
is compared, so each accessed and dirty flag counts, and so does any word that changes by mistake.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from hvfuzz.machine.addresses import EXEC, PAGE_SHIFT, PAGE_SIZE, READ, U64, WORD, WRITE
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.mmu import paging

RAM_SIZE: Final = 20 * PAGE_SIZE
"""Bytes of RAM, which starts at physical address 0."""
FRAMES: Final = range(4, 16)
"""Frames for the tables and pages of a case: no single changed address bit leads from one of them to the EPT."""
EPT_ROOT: Final = 16 << PAGE_SHIFT
"""Address of our model's EPT, which has three frames; to Unicorn these are plain memory."""

STUB_SLOT: Final = 0x1A7
"""Index of the PML4 entry that maps Unicorn's instructions; no case uses it for anything else."""
STUB: Final = 0xFE_DCBA_0000
"""Physical address of the page table of these instructions, outside RAM; our model never reads it."""
STUB_ENTRY: Final = STUB | 0x67
"""Present, writable, user, accessed, dirty. Written as a number, to be independent of our model's constants."""

CR2_BEFORE: Final = 0xC2_C2C2
"""CR2 before each access; only a page fault changes it."""
NO_EXCEPTION: Final = -1
"""Instead of a vector: the access succeeds."""
VM_EXIT: Final = -2
"""Instead of a vector: our model exits. It never should, since its EPT allows every access."""
NO_ADDRESS: Final = -1
"""Instead of a physical address: there was an exception."""

_KINDS: Final = {READ: "read", WRITE: "write", EXEC: "fetch"}
_CONTROLS: Final = (
    ("cr0", paging.CR0_WP, "WP"),
    ("efer", paging.EFER_NXE, "NXE"),
    ("cr4", paging.CR4_SMEP, "SMEP"),
    ("cr4", paging.CR4_SMAP, "SMAP"),
    ("cr4", paging.CR4_PGE, "PGE"),
)


class Access(NamedTuple):
    """One access to memory."""

    kind: int
    """READ, WRITE or EXEC."""
    user: bool
    """Whether the access is made at CPL 3; otherwise at CPL 0."""
    rflags: int
    gva: int
    size: int
    """Bytes: 1, 2, 4 or 8; 1 for a fetch."""
    value: int
    """RAX before the access: the value of a store; a load replaces it."""

    def __str__(self) -> str:
        mode = "user" if self.user else "supervisor"
        ac = ", AC" if self.rflags & paging.RFLAGS_AC else ""
        return f"{mode} {_KINDS[self.kind]} of {self.size} at {self.gva:#x}{ac}"


class Case(NamedTuple):
    """Control registers, words of RAM, and accesses that are made in order, without a TLB flush in between."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    entries: tuple[tuple[int, int], ...]
    """(physical address, word) of the words that differ from `initial_memory`."""
    accesses: tuple[Access, ...]

    def __str__(self) -> str:
        controls = [name for register, bit, name in _CONTROLS if getattr(self, register) & bit]
        words = " ".join(f"[{hpa:#x}]={word:#x}" for hpa, word in self.entries if word != STUB_ENTRY)
        accesses = ", then ".join(map(str, self.accesses))
        return f"{accesses}; {' '.join(controls) or 'no control bit'}; cr3 {self.cr3:#x}; {words}"


class Outcome(NamedTuple):
    """The result of an access; RAM is compared separately."""

    vector: int
    """Vector of the exception, or NO_EXCEPTION or VM_EXIT."""
    error: int
    """Error code of the exception."""
    cr2: int
    rax: int
    hpa: int
    """Physical address of the first byte, or NO_ADDRESS."""
    unbacked: tuple[int, ...]
    """Frames outside RAM that the access reached, in ascending order."""

    def __str__(self) -> str:
        if self.vector == VM_EXIT:
            return "VM exit"
        rest = f"cr2 {self.cr2:#x} rax {self.rax:#x}"
        if self.vector == NO_EXCEPTION:
            beyond = "".join(f" beyond RAM {frame << PAGE_SHIFT:#x}" for frame in self.unbacked)
            return f"physical {self.hpa:#x}{beyond} {rest}"
        try:
            name = f"#{Vector(self.vector).name}"
        except ValueError:
            name = f"vector {self.vector}"
        return f"{name}({self.error:#x}) {rest}"


def initial_memory() -> bytes:
    """RAM between cases: all words are even, so that no entry is present, and all of them differ."""
    return b"".join((hpa * 0x9E37_79B9_7F4A_7C16 & U64).to_bytes(WORD, "little") for hpa in range(0, RAM_SIZE, WORD))


def changes(before: Iterable[tuple[int, int]], initial: bytes, after: bytes) -> str:
    """The words that a case wrote, as text: RAM `after` it, compared with `initial` and the entries `before` it."""
    memory = bytearray(initial)
    for hpa, word in before:
        memory[hpa : hpa + WORD] = word.to_bytes(WORD, "little")
    words = [
        f"[{hpa:#x}]={int.from_bytes(after[hpa : hpa + WORD], 'little'):#x}"
        for hpa in range(0, len(memory), WORD)
        if memory[hpa : hpa + WORD] != after[hpa : hpa + WORD]
    ]
    return f"wrote {' '.join(words)}" if words else "wrote nothing"
