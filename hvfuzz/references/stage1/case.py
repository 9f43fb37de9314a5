"""What a case of the comparison is, and its outcome: the words that both implementations speak.

Both have the same physical memory: RAM from 0 up to RAM_SIZE, then nothing. All of it is compared after each case,
so every accessed and dirty flag counts, and every word that should not have changed.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from hvfuzz.machine.addresses import EXEC, PAGE_SHIFT, PAGE_SIZE, READ, U64, WORD, WRITE
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.mmu import paging

RAM_SIZE: Final = 20 * PAGE_SIZE
"""Bytes of RAM, from physical 0 on."""
FRAMES: Final = range(4, 16)
"""Where a case may put its tables and its pages: frames from which no single address bit leads to the EPT."""
EPT_ROOT: Final = 16 << PAGE_SHIFT
"""Address of our model's EPT, three frames: what it translates through, and to the reference plain memory."""

STUB_SLOT: Final = 0x1A7
"""Entry of the PML4 table that leads to the instructions of the reference; no index of a case is this one."""
STUB: Final = 0xFE_DCBA_0000
"""Physical address of the page table of those instructions, outside RAM; our model never goes there."""
STUB_ENTRY: Final = STUB | 0x67
"""Present, writable, user, accessed, dirty: as numbers, for the reference has to work whatever our model thinks."""

CR2_BEFORE: Final = 0xC2_C2C2
"""CR2 before each access: what it still is, unless there is a page fault."""
NO_EXCEPTION: Final = -1
VM_EXIT: Final = -2
"""In place of a vector: our model exits, which it never should, for its EPT allows everything."""
NO_ADDRESS: Final = -1

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
    """At CPL 3; else at CPL 0."""
    rflags: int
    gva: int
    size: int
    """Bytes: 1, 2, 4 or 8; 1 for a fetch."""
    value: int
    """RAX before: what is stored, and what a load replaces."""

    def __str__(self) -> str:
        mode = "user" if self.user else "supervisor"
        ac = ", AC" if self.rflags & paging.RFLAGS_AC else ""
        return f"{mode} {_KINDS[self.kind]} of {self.size} at {self.gva:#x}{ac}"


class Case(NamedTuple):
    """Control registers, words to put into RAM, and accesses, one after the other, without a flush in between."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    entries: tuple[tuple[int, int], ...]
    """(physical address, word): what differs from `initial_memory`."""
    accesses: tuple[Access, ...]

    def __str__(self) -> str:
        controls = [name for register, bit, name in _CONTROLS if getattr(self, register) & bit]
        words = " ".join(f"[{hpa:#x}]={word:#x}" for hpa, word in self.entries if word != STUB_ENTRY)
        accesses = ", then ".join(map(str, self.accesses))
        return f"{accesses}; {' '.join(controls) or 'no control bit'}; cr3 {self.cr3:#x}; {words}"


class Outcome(NamedTuple):
    """What an access did, but for what it did to RAM."""

    vector: int
    """Of the exception; or NO_EXCEPTION, VM_EXIT."""
    error: int
    """Error code of the exception."""
    cr2: int
    rax: int
    hpa: int
    """Physical address of the first byte; NO_ADDRESS if there was an exception."""
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
    """RAM between cases: an even word everywhere, each another one, so that no entry is present."""
    return b"".join((hpa * 0x9E37_79B9_7F4A_7C16 & U64).to_bytes(WORD, "little") for hpa in range(0, RAM_SIZE, WORD))


def changes(before: Iterable[tuple[int, int]], initial: bytes, after: bytes) -> str:
    """The words in which RAM `after` a case differs from RAM `before` it, which is `initial` with its entries."""
    memory = bytearray(initial)
    for hpa, word in before:
        memory[hpa : hpa + WORD] = word.to_bytes(WORD, "little")
    words = [
        f"[{hpa:#x}]={int.from_bytes(after[hpa : hpa + WORD], 'little'):#x}"
        for hpa in range(0, len(memory), WORD)
        if memory[hpa : hpa + WORD] != after[hpa : hpa + WORD]
    ]
    return f"wrote {' '.join(words)}" if words else "wrote nothing"
