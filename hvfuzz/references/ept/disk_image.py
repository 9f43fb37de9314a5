"""Encodes cases for the stub, and decodes the results that it writes. The format is that of stub.asm."""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.references.bochs.disk import encode_batch, encode_pairs, results_of
from hvfuzz.references.ept.case import RAX, Case, Kind, Outcome, Stop
from hvfuzz.references.ept.memory_map import CODE_PD_GPA, TEMPLATE, WATCHED, code_gva
from hvfuzz.references.reference import ReferenceError

STORED: Final = 2
"""Greatest number of words that a case may store to."""

_CASE: Final = Struct("<18Q")
_RESULT: Final = Struct(f"<{11 + len(WATCHED)}Q")
_ENTRY_CONTROLS: Final = 0x11FF | 1 << 15
"""VM-entry controls: the bits that must be 1, and 'load IA32_EFER'."""
_ENTER_IA32E: Final = 1 << 9
_CR4_VMXE: Final = 1 << 13
_CODE_RIGHTS: Final = {Kind.PDPTES: 0xC09B}
"""Access rights of CS (SDM Vol. 3C, table 25-2) for the kinds with 32-bit code; all others have 64-bit code."""
_ERROR_CODE_VALID: Final = 1 << 11
_ENTRY_FAILED: Final = 1 << 31
_BASIC_REASON: Final = 0xFFFF


def encode_disk(stub: bytes, tables: bytes, cases: Sequence[tuple[Case, tuple[int, ...]]]) -> tuple[bytes, int]:
    """(disk, first sector of the results) for cases, each with the hpas of the words that it stores to."""
    encoded = [_encode(case, stored) for case, stored in cases]
    return encode_batch(stub, tables, list(TEMPLATE.items()), encoded, len(cases) * _RESULT.size)


def _encode(case: Case, stored: tuple[int, ...]) -> bytes:
    pae = case.kind is Kind.PDPTES
    cpl = 3 if case.user else 0
    if len(stored) > STORED:
        raise ValueError(f"a case stores to {len(stored)} words, more than {STORED}: {case}")
    hpas = (*stored, *[WATCHED[0]] * (STORED - len(stored)))
    return _CASE.pack(
        len(case.entries),
        case.eptp,
        _ENTRY_CONTROLS | (0 if pae else _ENTER_IA32E),
        case.cr0,
        0 if pae else case.cr3,
        case.cr4 | _CR4_VMXE,
        case.efer & paging.EFER_NXE if pae else case.efer,
        case.rflags,
        code_gva(case.user) + 16 * case.kind,
        0x18 | cpl,
        _CODE_RIGHTS.get(case.kind, 0xA09B) | cpl << 5,
        0x10 | cpl,
        0xC093 | cpl << 5,
        CODE_PD_GPA | paging.P,
        RAX,
        case.gva,
        *hpas,
    ) + encode_pairs(case.entries)


def decode_results(data: bytes, cases: Sequence[tuple[Case, tuple[int, ...]]]) -> list[Outcome]:
    """The outcomes of cases from `data`, the results. Raises ReferenceError if one is missing or impossible."""
    results = results_of(data)
    outcomes = []
    for number, (case, stored) in enumerate(cases):
        words = _RESULT.unpack_from(results, number * _RESULT.size)
        if words[0] != number + 1:
            raise ReferenceError(f"bochs left no outcome of case {number}: {case}")
        outcomes.append(_decode(words, len(stored), case))
    return outcomes


def _decode(words: tuple[int, ...], stored: int, case: Case) -> Outcome:
    _, refused, reason, qualification, gpa, gva, interruption, code, rax = words[:9]
    memory = (*words[11:], *words[9 : 9 + stored])
    if refused:
        return Outcome(Stop.ENTRY_FAILURE, rax, memory, error=refused)
    basic = reason & _BASIC_REASON
    if reason & _ENTRY_FAILED or basic not in (
        Stop.VMCALL,
        Stop.EXCEPTION,
        Stop.EPT_VIOLATION,
        Stop.EPT_MISCONFIGURATION,
    ):
        raise ReferenceError(f"bochs reported an impossible exit reason {reason:#x}: {case}")
    stop = Stop(basic)
    if stop is Stop.EXCEPTION:
        vector = interruption & 0xFF
        error = code if interruption & _ERROR_CODE_VALID else 0
        address = qualification if vector == Vector.PF else 0
        return Outcome(stop, rax, memory, vector=vector, error=error, address=address)
    if stop is Stop.EPT_VIOLATION:
        linear = gva if qualification & Qualification.LINEAR_VALID else 0
        return Outcome(stop, rax, memory, qualification=qualification, gpa=gpa, gva=linear)
    if stop is Stop.EPT_MISCONFIGURATION:
        return Outcome(stop, rax, memory, gpa=gpa)
    return Outcome(stop, rax, memory)
