"""Translation of linear addresses by the guest's 4-level tables (SDM Vol. 3A, 4.5 to 4.8), from the manual alone."""

from collections.abc import Callable
from typing import Final

from hvfuzz.references.bochs.disk import MEMORY
from hvfuzz.references.ept.case import Case
from hvfuzz.references.ept.manual.host_tables import BEYOND, FETCH, READ, WRITE, HostTables

PAGE_FAULT, PROTECTION, ALIGNMENT = 14, 13, 17
"""Vectors of #PF, #GP and #AC."""
A, D = 1 << 5, 1 << 6
"""Accessed and dirty flags."""


class GuestException(Exception):
    """An exception in the guest: vector, error code, and CR2 if it is #PF."""

    def __init__(self, vector: int, error: int = 0, address: int = 0) -> None:
        super().__init__(vector, error, address)
        self.vector = vector
        self.error = error
        self.address = address


class GuestTables:
    """The guest's tables and control registers; quirks: `unchecked` for unchecked-flags, `late` for late-flags."""

    def __init__(self, case: Case, host: HostTables, unchecked: Callable[[], bool], late: Callable[[], bool]) -> None:
        self._case: Final = case
        self._host: Final = host
        self._unchecked: Final = unchecked
        self._late: Final = late

    def translate(self, gva: int, access: int) -> int:
        """The hpa of `gva`. Raises GuestException, Violation, Misconfiguration."""
        case, host = self._case, self._host
        if gva >> 47 not in (0, 0x1_FFFF):
            raise GuestException(PROTECTION)
        table, every, no_fetch = case.cr3 & (1 << 40) - (1 << 12), 6, False
        pending: list[tuple[int, int, int]] = []
        for level in (4, 3, 2, 1):
            at = table | (gva >> 3 + 9 * level & 511) << 3
            hpa = host.translate(at, READ, gva, walking=True)
            entry = host.word(hpa)
            if not entry & 1:
                raise self._page_fault(gva, access, 0)
            leaf = level == 1 or (level < 4 and entry >> 7 & 1 == 1)
            if self._is_reserved(entry, level, leaf):
                raise self._page_fault(gva, access, 0b1001)
            every &= entry
            no_fetch = no_fetch or entry >> 63 == 1
            if leaf:
                break
            if not entry & A:
                if self._late():
                    pending.append((at, hpa, A))
                else:
                    self._set_flags(at, hpa, A, gva)
            table = entry & (1 << 40) - (1 << 12)
        if self._is_denied(access, every, no_fetch):
            raise self._page_fault(gva, access, 1)
        wanted = A | D if access == WRITE else A
        if entry & wanted != wanted:
            pending.append((at, hpa, wanted))
        for entry_gpa, entry_hpa, flags in pending:
            self._set_flags(entry_gpa, entry_hpa, flags, gva)
        size = 1 << 3 + 9 * level
        return host.translate(entry & (1 << 40) - size | gva & size - 1, access, gva)

    def _set_flags(self, gpa: int, hpa: int, flags: int, gva: int) -> None:
        """Set flags in an entry, which is a write to a guest paging structure (SDM Vol. 3C, 29.3.3.2)."""
        if not self._unchecked():
            self._host.translate(gpa, WRITE, gva, walking=True)
        if hpa < MEMORY:
            self._host.write(hpa, (self._host.word(hpa) | flags).to_bytes(8, "little"))

    def _is_reserved(self, entry: int, level: int, leaf: bool) -> bool:
        """Whether a present entry has a reserved bit set (4.7; tables 4-15 to 4-20)."""
        if entry & BEYOND or (entry >> 63 and not self._case.efer >> 11 & 1):
            return True
        if level == 4:
            return entry >> 7 & 1 == 1
        return leaf and level > 1 and entry & (1 << 3 + 9 * level) - (1 << 13) != 0

    def _is_denied(self, access: int, every: int, no_fetch: bool) -> bool:
        """Access rights (4.6.1); `every` has R/W and U/S of all entries combined."""
        case = self._case
        user_page, writable = every >> 2 & 1 == 1, every >> 1 & 1 == 1
        if access == FETCH and no_fetch:
            return True
        if access == WRITE and not writable and (case.user or case.cr0 >> 16 & 1):
            return True
        if case.user or not user_page:
            return case.user and not user_page
        if access == FETCH:
            return case.cr4 >> 20 & 1 == 1
        return case.cr4 >> 21 & 1 == 1 and not case.rflags >> 18 & 1

    def _page_fault(self, gva: int, access: int, code: int) -> GuestException:
        """#PF; `code` has P and RSVD of the error code (4.7)."""
        case = self._case
        code |= (2 if access == WRITE else 0) | (4 if case.user else 0)
        if access == FETCH and (case.efer >> 11 & 1 or case.cr4 >> 20 & 1):
            code |= 1 << 4
        return GuestException(PAGE_FAULT, code, gva)
