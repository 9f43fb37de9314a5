"""Memory of a case, and translation by EPT (SDM Vol. 3C, 29.3), written from the manual alone and without caches."""

from collections.abc import Callable
from typing import Final

from hvfuzz.references.bochs.disk import MEMORY, REGION
from hvfuzz.references.ept.case import Case
from hvfuzz.references.ept.memory_map import REGION_SIZE, TABLES_SIZE, TEMPLATE, pattern

READ, WRITE, FETCH = 1, 2, 4
"""Rights of an EPT entry, and the same bits of the exit qualification (29.3.2; table 28-7)."""
LINEAR, PAGE = 1 << 7, 1 << 8
"""Exit qualification: the linear address is valid; and the access was to its page, not to a guest table."""
ONES: Final = (1 << 64) - 1
BEYOND: Final = (1 << 52) - (1 << 40)
"""Address bits that a processor with 40 physical address bits reserves."""
IGNORED_BIT: Final = 1 << 12
"""The bit that the quirk large-leaf-bit-12 is about."""


class Violation(Exception):
    """An EPT violation: exit qualification, gpa, and linear address (0 if none is valid)."""

    def __init__(self, qualification: int, gpa: int, gva: int) -> None:
        super().__init__(qualification, gpa, gva)
        self.qualification = qualification
        self.gpa = gpa
        self.gva = gva


class Misconfiguration(Exception):
    """An EPT misconfiguration, with its gpa."""

    def __init__(self, gpa: int) -> None:
        super().__init__(gpa)
        self.gpa = gpa


class HostTables:
    """Host memory at the start of a case, and accesses to it by gpa.

    `initial` is the start of REGION between cases. Quirks: `ignores_bit_12` and `walks_write_only` say whether
    large-leaf-bit-12 and walk-qualification apply.
    """

    def __init__(
        self, case: Case, initial: bytes, ignores_bit_12: Callable[[], bool], walks_write_only: Callable[[], bool]
    ) -> None:
        self.words: Final[dict[int, int]] = dict(TEMPLATE) | dict(case.entries)
        """Words of memory that differ from `initial`, by hpa."""
        self._initial: Final = initial
        self._root: Final = case.eptp & (1 << 40) - (1 << 12)
        self._flags: Final = case.eptp >> 6 & 1 == 1
        """Accessed and dirty flags are enabled."""
        self._ignores_bit_12: Final = ignores_bit_12
        self._walks_write_only: Final = walks_write_only

    def word(self, hpa: int) -> int:
        """The word at `hpa`; ones where no memory answers."""
        if hpa >= MEMORY:
            return ONES
        if hpa in self.words:
            return self.words[hpa]
        offset = hpa - REGION
        if 0 <= offset < TABLES_SIZE:
            return int.from_bytes(self._initial[offset : offset + 8], "little")
        return pattern(hpa) if 0 <= offset < REGION_SIZE else 0

    def read(self, hpa: int, size: int) -> bytes:
        """Bytes of memory."""
        return bytes(self.word(at & ~7) >> 8 * (at & 7) & 0xFF for at in range(hpa, hpa + size))

    def write(self, hpa: int, data: bytes) -> None:
        """Write bytes; they are lost where no memory answers."""
        for at, byte in enumerate(data, hpa):
            if at < MEMORY:
                shift = 8 * (at & 7)
                self.words[at & ~7] = self.word(at & ~7) & ~(0xFF << shift) | byte << shift

    def translate(self, gpa: int, access: int, gva: int | None, *, walking: bool = False) -> int:
        """The hpa of `gpa`; `walking` means that the access is to a guest paging structure (29.3.3.2)."""
        if walking and self._flags:
            access |= WRITE
        table, rights = self._root, READ | WRITE | FETCH
        used = []
        for level in (4, 3, 2, 1):
            at = table | (gpa >> 3 + 9 * level & 511) << 3
            entry = self.word(at)
            rights &= entry
            if not entry & 7:
                raise self._violation(gpa, access, 0, gva, walking)
            leaf = level == 1 or (level < 4 and entry >> 7 & 1 == 1)
            if self._is_misconfigured(entry, level, leaf):
                raise Misconfiguration(gpa)
            used.append(at)
            size = 1 << 3 + 9 * level
            if leaf:
                break
            table = entry & (1 << 40) - (1 << 12)
        if access & ~rights:
            raise self._violation(gpa, access, rights, gva, walking)
        if self._flags:
            for at in used:
                self.write(at, (self.word(at) | 1 << 8).to_bytes(8, "little"))
            if access & WRITE:
                self.write(at, (self.word(at) | 1 << 9).to_bytes(8, "little"))
        return entry & (1 << 40) - size | gpa & size - 1

    def _is_misconfigured(self, entry: int, level: int, leaf: bool) -> bool:
        """A combination of rights, a memory type or a reserved bit that no entry may have (29.3.3.1)."""
        if entry & 3 == WRITE or entry & BEYOND:
            return True
        if not leaf:
            return entry & (0xF8 if level == 4 else 0x78) != 0
        offset = entry & (1 << 3 + 9 * level) - (1 << 12)
        if offset & IGNORED_BIT and self._ignores_bit_12():
            offset &= ~IGNORED_BIT
        return offset != 0 or entry >> 3 & 7 in (2, 3, 7)

    def _violation(self, gpa: int, access: int, rights: int, gva: int | None, walking: bool) -> Violation:
        """The exit qualification (table 28-7)."""
        if walking and self._flags and access & READ and self._walks_write_only():
            access &= ~READ
        where = 0 if gva is None else LINEAR if walking else LINEAR | PAGE
        return Violation(access | rights << 3 | where, gpa, gva or 0)
