"""Builds a case: its memory is addressed by linear address or by its role, and its instruction put where RIP is."""

from typing import Any, Final

from hvfuzz.machine.addresses import PAGE_MASK, U64, WORD
from hvfuzz.machine.cpu.processor_state import RFLAGS_FIXED
from hvfuzz.machine.cpu.segments import KERNEL_CS, KERNEL_SS, USER_CS, USER_SS
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.references.ring.case import KERNEL_RIP, USER_RIP, USER_RSP, Case, Intercept, Kind
from hvfuzz.references.ring.memory_map import (
    Page,
    encode_gate,
    ept_of,
    gate_of,
    gva_of,
    handler_of,
    hpa_of,
    page_at,
    pte_of,
    word_at,
)

OPERAND: Final = gva_of(Page.DATA) + 0x40
"""Where the operand of INVPCID and LIDT lies, and what LOAD and STORE access."""
ALWAYS_EXITING: Final = 1 << Intercept.IO | 1 << Intercept.HLT | 1 << Intercept.MSR_BITMAP
"""The intercepts of most cases: those of our hypervisor."""
_VMCALL: Final = bytes.fromhex("0f 01 c1")
"""Follows the instruction: what ends a case after STI."""


class CaseBuilder:
    """A mutable case, whose instruction succeeds unless it is told otherwise; `finish` returns the finished one."""

    def __init__(self, kind: Kind, user: bool = False) -> None:
        self.kind = kind
        self.user = user
        self.fields: dict[str, Any] = {}
        self.words: dict[int, int] = {}
        self["intercepts"] = ALWAYS_EXITING
        if user:
            self["rip"], self["rsp"] = USER_RIP, USER_RSP
        if kind in (Kind.INVPCID, Kind.LIDT, Kind.LOAD, Kind.STORE, Kind.INVLPG):
            self["rdi"] = OPERAND
        if kind in (Kind.MOV_CR, Kind.READ_CR):
            self["argument"] = 0xC0

    def __getitem__(self, field: str) -> Any:
        """A field of the case."""
        return self.fields.get(field, Case._field_defaults[field])

    def __setitem__(self, field: str, value: Any) -> None:
        self.fields[field] = value

    # Memory.

    def word(self, hpa: int) -> int:
        """The word at an hpa, 8-byte aligned."""
        return self.words.get(hpa, word_at(hpa))

    def write(self, hpa: int, data: bytes) -> None:
        """Write bytes at an hpa."""
        for offset, byte in enumerate(data):
            at = hpa + offset
            shift = 8 * (at & 7)
            self.words[at & ~7] = self.word(at & ~7) & ~(0xFF << shift) | byte << shift

    def write_at(self, gva: int, data: bytes) -> None:
        """Write bytes at a linear address, where there are pages."""
        for offset, byte in enumerate(data):
            at = gva + offset & U64
            page = page_at(at)
            if page is not None:
                self.write(hpa_of(page) | at & PAGE_MASK, bytes([byte]))

    def flip(self, hpa: int, bits: int) -> None:
        """Invert bits of a word."""
        self.words[hpa] = self.word(hpa) ^ bits

    def flip_pte(self, page: Page, bits: int) -> None:
        """Invert bits of the guest's entry for a page."""
        self.flip(pte_of(page), bits)

    def set_ept_rights(self, page: Page, rights: int) -> None:
        """Set the rights of the EPT entry for a page."""
        self.words[ept_of(page)] = self.word(ept_of(page)) & ~ept.RIGHTS | rights

    def gate(
        self, vector: int, *, target: int | None = None, selector: int = KERNEL_CS, kind: int = 0x8E, ist: int = 0
    ) -> None:
        """Write a gate of the IDT in its usual place."""
        target = handler_of(vector) if target is None else target
        first, second = encode_gate(target, selector, kind, ist)
        self.words[gate_of(vector)], self.words[gate_of(vector) + WORD] = first, second

    def set_operand(self, data: bytes) -> None:
        """Write the operand of INVPCID or LIDT."""
        self.write_at(OPERAND, data)

    def finish(self, what: str) -> Case:
        """The case, which varies `what`."""
        rip = self["rip"]
        page = page_at(rip)
        if page is not None:
            self.write_at(rip, self.kind.code(self["argument"]) + _VMCALL)
            user = bool(self.word(pte_of(page)) & paging.US)
            if user != self.user:
                self.flip_pte(page, paging.US)
        words = tuple(sorted((hpa, value) for hpa, value in self.words.items() if value != word_at(hpa)))
        return Case(what, self.kind, user=self.user, words=words, **self.fields)


def iret_builder(
    source: bool,
    target: bool,
    *,
    at: int | None = None,
    rip: int | None = None,
    cs: int | None = None,
    flags: int = RFLAGS_FIXED,
    rsp: int | None = None,
    ss: int | None = None,
) -> CaseBuilder:
    """A builder of an IRET in ring 3 (`source`) or 0 to ring 3 (`target`) or 0, from a frame at `at`.

    None stands for a value with which the IRET succeeds.
    """
    builder = CaseBuilder(Kind.IRET, source)
    if at is not None:
        builder["rsp"] = at
    words = (
        (USER_RIP if target else KERNEL_RIP) + 0x40 if rip is None else rip,
        (USER_CS if target else KERNEL_CS) if cs is None else cs,
        flags,
        USER_RSP if rsp is None else rsp,
        (USER_SS if target else KERNEL_SS) if ss is None else ss,
    )
    builder.write_at(builder["rsp"], b"".join((word & U64).to_bytes(WORD, "little") for word in words))
    return builder
