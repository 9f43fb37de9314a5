"""What a case ends in by the manual, with some of Bochs's quirks: VM entry, the routine of guest.asm, and the exit."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from hvfuzz.references.bochs.disk import MEMORY
from hvfuzz.references.ept.case import RAX, SIZE, Case, Kind, Outcome, Stop
from hvfuzz.references.ept.manual.guest_tables import ALIGNMENT, PAGE_FAULT, PROTECTION, GuestException, GuestTables
from hvfuzz.references.ept.manual.host_tables import FETCH, READ, WRITE, HostTables, Misconfiguration, Violation
from hvfuzz.references.ept.memory_map import CODE_PD_GPA, WATCHED, Part, code_gva, gpa_of, hpa_of
from hvfuzz.references.ept.quirks import LARGE_LEAF_BIT_12, LATE_FLAGS, UNCHECKED_FLAGS, WALK_QUALIFICATION
from hvfuzz.references.reference import Quirk

_INVALID_CONTROL: Final = 7
"""VM-instruction error: VM entry with invalid control fields (SDM Vol. 3C, 31.4)."""
_EPTP_RESERVED: Final = (1 << 64) - (1 << 40) | 0xF80
"""Bits of an EPTP that must be clear (SDM Vol. 3C, 27.2.1.1)."""
_INVALID_OPCODE: Final = 6
_MOV_CR3_LENGTH: Final = 3
_PDPTE_RESERVED: Final = (1 << 64) - (1 << 40) | 0x1E6
"""Bits that must be clear in a present PAE PDPTE (SDM Vol. 3A, table 4-8)."""


class Prediction(NamedTuple):
    """A case's outcome, the words that it stores to, and the quirks that were asked for on the way."""

    outcome: Outcome
    stored: tuple[int, ...]
    used: frozenset[Quirk]


def predict(case: Case, initial: bytes, some: Iterable[Quirk], stored: tuple[int, ...] | None = None) -> Prediction:
    """The outcome of a case with the quirks `some`, and with the words at `stored` (None: those that it stores to).

    `initial` is the start of REGION between cases.
    """
    guest = _Guest(case, initial, frozenset(some))
    outcome = guest.run()
    own = tuple(sorted(guest.stored))
    hpas = (*WATCHED, *(own if stored is None else stored))
    return Prediction(outcome._replace(memory=tuple(map(guest.host.word, hpas))), own, frozenset(guest.used))


class _Guest:
    """The processor that runs the guest of a case."""

    def __init__(self, case: Case, initial: bytes, some: frozenset[Quirk]) -> None:
        self.used: Final[set[Quirk]] = set()
        self.stored: Final[set[int]] = set()
        self._case: Final = case
        self._some: Final = some
        self._rax = RAX
        self.host: Final = HostTables(
            case, initial, lambda: self._uses(LARGE_LEAF_BIT_12), lambda: self._uses(WALK_QUALIFICATION)
        )
        self._tables: Final = GuestTables(
            case, self.host, lambda: self._uses(UNCHECKED_FLAGS), lambda: self._uses(LATE_FLAGS)
        )

    def _uses(self, quirk: Quirk) -> bool:
        if quirk not in self._some:
            return False
        self.used.add(quirk)
        return True

    def run(self) -> Outcome:
        """The outcome, without memory."""
        eptp = self._case.eptp
        if eptp & _EPTP_RESERVED or eptp & 7 not in (0, 6) or eptp >> 3 & 7 != 3:
            return Outcome(Stop.ENTRY_FAILURE, RAX, (), error=_INVALID_CONTROL)
        try:
            self._routine()
        except GuestException as exception:
            return Outcome(Stop.EXCEPTION, self._rax, (), exception.vector, exception.error, exception.address)
        except Violation as violation:
            return Outcome(
                Stop.EPT_VIOLATION,
                self._rax,
                (),
                qualification=violation.qualification,
                gpa=violation.gpa,
                gva=violation.gva,
            )
        except Misconfiguration as misconfiguration:
            return Outcome(Stop.EPT_MISCONFIGURATION, self._rax, (), gpa=misconfiguration.gpa)
        return Outcome(Stop.VMCALL, self._rax, ())

    def _routine(self) -> None:
        case = self._case
        code = code_gva(case.user) + 16 * case.kind
        expected = hpa_of(Part.CODE) | code & 0xFFF
        if case.kind is Kind.PDPTES:
            self._load_pdptes(code, expected)
            return
        hpa = self._tables.translate(code, FETCH)
        if hpa != expected:
            self._run_word(hpa)
            return
        if case.kind is Kind.FETCH:
            self._run_word(self._tables.translate(case.gva, FETCH))
            return
        if case.kind in (Kind.LOAD, Kind.UPDATE):
            data = b"".join(self.host.read(hpa, size) for hpa, size in self._operand(READ))
            self._rax = int.from_bytes(data, "little")
        if case.kind is Kind.UPDATE:
            self._rax = self._rax + 1 & (1 << 64) - 1
        if case.kind in (Kind.STORE, Kind.UPDATE):
            data = self._rax.to_bytes(SIZE, "little")
            for hpa, size in self._operand(WRITE):
                self.host.write(hpa, data[:size])
                data = data[size:]
                if hpa < MEMORY:
                    self.stored.update((hpa & ~7, hpa + size - 1 & ~7))

    def _operand(self, access: int) -> list[tuple[int, int]]:
        """(hpa, size) of the parts of the operand; both are translated before either is accessed."""
        case = self._case
        gva = case.gva
        checked = case.user and case.cr0 >> 18 & 1 and case.rflags >> 18 & 1
        if gva & SIZE - 1 and checked and gva >> 47 in (0, 0x1_FFFF):
            raise GuestException(ALIGNMENT)
        first = min(SIZE, 0x1000 - (gva & 0xFFF))
        parts = [(self._tables.translate(gva, access), first)]
        if first < SIZE:
            parts.append((self._tables.translate(gva + first & (1 << 64) - 1, access), SIZE - first))
        return parts

    def _run_word(self, hpa: int) -> None:
        """Run the word at `hpa`: MOV EAX, imm32; VMCALL; or zeros, which are ADD [RAX], AL; or ones."""
        word = self.host.word(hpa) if hpa & 7 == 0 else int.from_bytes(self.host.read(hpa, 8), "little")
        if word == (1 << 64) - 1:
            raise GuestException(_INVALID_OPCODE)
        if word == 0:
            raise GuestException(PROTECTION)
        if word & 0xFF != 0xB8 or word >> 40 != 0xC1010F:
            raise AssertionError(f"a case would run {word:#x} at {hpa:#x}")
        self._rax = word >> 8 & 0xFFFF_FFFF

    def _load_pdptes(self, code: int, expected: int) -> None:
        """MOV to CR3 in PAE paging: the fetch of the routine, four PDPTEs (29.3.5), and the next fetch."""
        case, host = self._case, self.host
        host.translate(CODE_PD_GPA + 8 * (code >> 21), READ, code, walking=True)
        hpa = host.translate(gpa_of(Part.CODE) | code & 0xFFF, FETCH, code)
        if hpa != expected:
            self._run_word(hpa)
            return
        hpa = host.translate(case.gva & ~0x1F, READ, None)
        pdptes = [host.word(hpa + 8 * number) for number in range(4)]
        if any(pdpte & 1 and pdpte & _PDPTE_RESERVED for pdpte in pdptes):
            raise GuestException(PROTECTION)
        if not pdptes[0] & 1:
            fetch = 1 << 4 if case.efer >> 11 & 1 or case.cr4 >> 20 & 1 else 0
            raise GuestException(PAGE_FAULT, fetch, code + _MOV_CR3_LENGTH)
