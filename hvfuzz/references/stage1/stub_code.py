"""The stub that Unicorn runs: one instruction for each kind and size of access, and the page table that maps them.

Every case maps the stub at STUB_SLOT of its PML4. The stub's table maps itself at every level, and then the page of
instructions twice: for the supervisor and for the user.
"""

from struct import Struct
from typing import Final

from hvfuzz.machine.addresses import EXEC, PAGE_SIZE, READ, WRITE
from hvfuzz.references.stage1.case import STUB, STUB_ENTRY, STUB_SLOT, Access

STUB_SIZE: Final = 2 * PAGE_SIZE
"""Bytes at the physical address STUB: the table, and the instructions."""
_BASE: Final = 0xFFFF << 48 | STUB_SLOT << 39
"""Linear address of the first page of the stub."""
_SUPERVISOR_CODE: Final = _BASE + PAGE_SIZE
USER_CODE: Final = _BASE + 2 * PAGE_SIZE
_SLOT_SIZE: Final = 16
_LOOP: Final = b"\xeb\xfe"
"""JMP to itself: ends Unicorn's translation block. It is never executed, since one instruction is run at a time."""
_INSTRUCTIONS: Final = {
    (READ, 1): b"\x0f\xb6\x07",  # MOVZX EAX, byte [RDI]
    (READ, 2): b"\x0f\xb7\x07",  # MOVZX EAX, word [RDI]
    (READ, 4): b"\x8b\x07",  # MOV EAX, [RDI]
    (READ, 8): b"\x48\x8b\x07",  # MOV RAX, [RDI]
    (WRITE, 1): b"\x88\x07",  # MOV [RDI], AL
    (WRITE, 2): b"\x66\x89\x07",  # MOV [RDI], AX
    (WRITE, 4): b"\x89\x07",  # MOV [RDI], EAX
    (WRITE, 8): b"\x48\x89\x07",  # MOV [RDI], RAX
}
_OFFSETS: Final = {key: _SLOT_SIZE * number for number, key in enumerate(_INSTRUCTIONS)}
_SYSRET: Final = b"\x48\x0f\x07"
_SYSRET_OFFSET: Final = _SLOT_SIZE * len(_INSTRUCTIONS)
SYSRET_CODE: Final = _SUPERVISOR_CODE + _SYSRET_OFFSET
"""Linear address of a SYSRET in the supervisor's code."""
_USER_BIT: Final = 4
_ENTRY: Final = Struct("<Q")


def stub_pages() -> bytes:
    """The STUB_SIZE bytes of the stub: its page table, and its instructions."""
    pages = bytearray(STUB_SIZE)
    table, code = STUB, STUB + PAGE_SIZE
    rights = STUB_ENTRY & (PAGE_SIZE - 1)
    for index, entry in enumerate((table | rights, code | rights & ~_USER_BIT, code | rights)):
        _ENTRY.pack_into(pages, _ENTRY.size * index, entry)
    instructions = {_OFFSETS[key]: code + _LOOP for key, code in _INSTRUCTIONS.items()} | {_SYSRET_OFFSET: _SYSRET}
    for offset, instruction in instructions.items():
        pages[PAGE_SIZE + offset : PAGE_SIZE + offset + len(instruction)] = instruction
    return bytes(pages)


def start_address(access: Access) -> int:
    """Linear address at which to start Unicorn so that it makes `access`, a load or store through RDI, or a fetch."""
    if access.kind == EXEC:
        return access.gva
    return (USER_CODE if access.user else _SUPERVISOR_CODE) + _OFFSETS[access.kind, access.size]
