"""A second model of a translation with caches: result, cycles, flags set in tables, and what is cached afterwards.

Written from the manual (SDM Vol. 3A, ch. 4; Vol. 3C, 29.3 and 29.4) and from the choices that the machine documents. It
writes nothing: the words that the processor should write are in `written`. EPT accessed and dirty flags are not
modelled, since the hypervisor enables them nowhere: the oracle `exits` knows its EPTPs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, PAGE_SHIFT, PHYSICAL_RESERVED, READ, U64, WRITE, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.ept import EP4TA, LARGE, MEMORY_TYPE, MEMORY_TYPE_SHIFT, RIGHTS
from hvfuzz.machine.mmu.paging import (
    ADDRESS,
    CR0_WP,
    CR3_PCID,
    CR4_PCIDE,
    CR4_PGE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    NX,
    PS,
    RFLAGS_AC,
    RW,
    US,
    A,
    D,
    G,
    P,
)
from hvfuzz.oracles.hardware.second_caches import TABLE_LEVELS, prefix
from hvfuzz.oracles.shadow.guest_walk import PAGE_FAULT, PAT_OF_LARGE, PRESENT, RSVD, I, U, W
from hvfuzz.oracles.shadow.stage2_walk import TOP, TYPES

if TYPE_CHECKING:
    from hvfuzz.oracles.hardware.second_caches import SecondCaches

GPA_BITS: Final = PAGE_SHIFT + 9 * TOP
LINEAR, FINAL = 1 << 7, 1 << 8
"""Exit qualification of an EPT violation, beside access and rights (SDM Vol. 3C, table 28-7)."""


class Refused(Exception):
    """The access does not come through. `args` are the name of the event and its fields."""


class _Changed(Exception):
    """An entry is not what was read when a flag is to be set in it: the walk begins again (Vol. 3A, 9.1.2.1)."""


class SecondMmu:
    """Translates over the bytes of memory, and over caches that are a model, too."""

    __slots__ = ("_size", "_words", "caches", "cycles", "written")

    def __init__(self, words: Any, size: int, caches: SecondCaches) -> None:
        self._words: Final = words
        self._size: Final = size
        self.caches: Final = caches
        self.cycles = 0
        self.written: dict[int, int] = {}
        """Hpa of a word -> what the processor writes to it."""

    def _word(self, hpa: int) -> int:
        if hpa >= self._size:
            return U64
        word: int = self.written.get(hpa, self._words[hpa >> 3])
        return word

    # Stage 1.

    def translate(self, vcpu: Any, gva: int, access: int, user: bool, smap: bool) -> int:
        """The Hpa. Raises Refused."""
        caches = self.caches
        pcid = vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0
        tag = (vcpu.vpid, pcid, vcpu.eptp & EP4TA)
        key = (*tag, gva >> PAGE_SHIFT)
        entry = caches.translations.get(key)
        if entry is not None:
            if access & ~entry[1] == 0 and (entry[2] if user else not (entry[2] and denied(vcpu, access, smap))):
                caches.hits += 1
                self.cycles += Cost.TLB_HIT
                return entry[0] + (gva & PAGE_MASK)
            del caches.translations[key]
        caches.misses += 1
        if not is_canonical(gva):
            raise Refused("fault", 13, 0, 0)
        places = [(*tag, level, prefix(gva, level)) for level in TABLE_LEVELS]
        start = next((caches.tables[place] for place in places if place in caches.tables), None)
        try:
            return self._walk(vcpu, gva, access, user, smap, tag, start)
        except _Changed:
            pass
        except Refused as refused:
            if start is not None and refused.args[0] != "misconfiguration":
                caches.faulted(tag, gva)
            raise
        while True:
            caches.faulted(tag, gva)
            try:
                return self._walk(vcpu, gva, access, user, smap, tag, None)
            except _Changed:
                continue

    def _walk(
        self, vcpu: Any, gva: int, access: int, user: bool, smap: bool, tag: tuple[int, int, int], start: Any
    ) -> int:
        caches = self.caches
        code = (W if access & WRITE else 0) | (U if user else 0)
        if access & EXEC and (vcpu.efer & EFER_NXE or vcpu.cr4 & CR4_SMEP):
            code |= I
        reserved = PHYSICAL_RESERVED | (0 if vcpu.efer & EFER_NXE else NX)
        known, table, rights, no_fetch, top = None, vcpu.cr3 & ADDRESS, RW | US, 0, TOP
        if start is not None:
            known, table, _, rights, no_fetch, below = start
            top = below - 1
        passed = []
        for level in range(top, 0, -1):
            place = table | (prefix(gva, level) & 511) << 3
            if known is None:
                known, allowed, _ = self._resolve(vcpu.eptp, place, READ, gva, True)
                if level != TOP:
                    passed.append((known, table, allowed, rights, no_fetch, level + 1))
            else:
                self.cycles += Cost.TLB_HIT
            self.cycles += Cost.WALK_REFERENCE
            entry = self._word(known | place & PAGE_MASK)
            known = None
            if not entry & P:
                raise Refused("fault", PAGE_FAULT, code, gva)
            leaf = level == 1 or bool(entry & PS)
            within = (1 << PAGE_SHIFT + 9 * (level - 1)) - 1
            misplaced = level > 1 and entry & ADDRESS & within & ~PAT_OF_LARGE
            if entry & reserved or (leaf and (level == TOP or misplaced)):
                raise Refused("fault", PAGE_FAULT, code | PRESENT | RSVD, gva)
            rights &= entry
            no_fetch |= entry & NX
            if leaf:
                break
            self._mark(vcpu.eptp, place, gva, entry, A)
            table = entry & ADDRESS
        of_user, writable = rights & US != 0, rights & RW != 0
        wrong_page = not of_user if user else of_user and denied(vcpu, access, smap)
        read_only = access & WRITE and not writable and (user or vcpu.cr0 & CR0_WP)
        if wrong_page or read_only or (access & EXEC and no_fetch):
            raise Refused("fault", PAGE_FAULT, code | PRESENT, gva)
        entry = self._mark(vcpu.eptp, place, gva, entry, A | D if access & WRITE else A)
        gpa = entry & ADDRESS & ~within | gva & within
        frame, allowed, _ = self._resolve(vcpu.eptp, gpa, access, gva, False)
        caches.keep(caches.tables, {(*tag, each[5], prefix(gva, each[5])): each for each in passed})
        if not (writable and entry & D):
            allowed &= ~WRITE
        if no_fetch:
            allowed &= ~EXEC
        is_global = bool(entry & G) and bool(vcpu.cr4 & CR4_PGE)
        translation = (frame, allowed, of_user, is_global, 9 * (level - 1), gpa & ~PAGE_MASK)
        caches.keep(caches.translations, {(*tag, gva >> PAGE_SHIFT): translation})
        return frame + (gva & PAGE_MASK)

    def _mark(self, eptp: int, place: int, gva: int, entry: int, flags: int) -> int:
        """Set flags in an entry, which is a write for stage 2 (Vol. 3A, 4.8); returns the entry as it is then."""
        if entry & flags == flags:
            return entry
        hpa = self._resolve(eptp, place, WRITE, gva, True)[0] | place & PAGE_MASK
        self.cycles += Cost.WALK_REFERENCE
        if hpa < self._size:
            if self._word(hpa) != entry:
                raise _Changed
            self.written[hpa] = entry | flags
        return entry | flags

    # Stage 2.

    def _resolve(self, eptp: int, gpa: int, access: int, gva: int, walking: bool) -> tuple[int, int, int]:
        """(Hpa of the page, rights, order), by the caches or by the tables."""
        caches = self.caches
        root = eptp & EP4TA
        key = (root, gpa >> PAGE_SHIFT)
        cached = caches.guest_physical.get(key)
        if cached is not None:
            if access & ~cached[1] == 0:
                self.cycles += Cost.TLB_HIT
                return cached
            del caches.guest_physical[key]
        places = [(root, level, prefix(gpa, level)) for level in TABLE_LEVELS]
        start = next((caches.ept_tables[place] for place in places if place in caches.ept_tables), None)
        try:
            found = self._walk_ept(eptp, gpa, access, gva, walking, start)
        except Refused as refused:
            if start is not None and refused.args[0] == "violation":
                caches.violated(root, gpa)
            raise
        caches.keep(caches.guest_physical, {key: found})
        return found

    def _walk_ept(self, eptp: int, gpa: int, access: int, gva: int, walking: bool, start: Any) -> tuple[int, int, int]:
        caches = self.caches
        qualification = access | LINEAR | (0 if walking else FINAL)
        if gpa >> GPA_BITS:
            raise Refused("violation", gpa, gva, qualification)
        table, rights, top = eptp & ADDRESS, RIGHTS, TOP
        if start is not None:
            table, rights, below = start
            top = below - 1
            self.cycles += Cost.TLB_HIT
        passed = []
        for level in range(top, 0, -1):
            self.cycles += Cost.WALK_REFERENCE
            entry = self._word(table | (prefix(gpa, level) & 511) << 3)
            if not entry & RIGHTS:
                raise Refused("violation", gpa, gva, qualification)
            leaf = level == 1 or (level < TOP and bool(entry & LARGE))
            within = (1 << PAGE_SHIFT + 9 * (level - 1)) - 1
            # In an entry that names a table, bits 6..3 are reserved, at the top bit 7, too (Vol. 3C, 29.3.3.1).
            misplaced = entry & ADDRESS & within if leaf else entry & (0xF8 if level == TOP else 0x78)
            wrong_type = leaf and (entry & MEMORY_TYPE) >> MEMORY_TYPE_SHIFT not in TYPES
            if entry & (READ | WRITE) == WRITE or entry & PHYSICAL_RESERVED or misplaced or wrong_type:
                raise Refused("misconfiguration", gpa)
            rights &= entry
            if leaf:
                break
            table = entry & ADDRESS
            passed.append((table, rights, level))
        if access & ~rights:
            raise Refused("violation", gpa, gva, qualification | rights << 3)
        caches.keep(caches.ept_tables, {(eptp & EP4TA, each[2], prefix(gpa, each[2])): each for each in passed})
        return entry & ADDRESS & ~within | gpa & within & ~PAGE_MASK, rights, 9 * (level - 1)


def denied(vcpu: Any, access: int, smap: bool) -> bool:
    """Whether SMEP or SMAP keeps a supervisor from user pages (Vol. 3A, 4.6.1)."""
    if access & EXEC:
        return bool(vcpu.cr4 & CR4_SMEP)
    return smap and bool(vcpu.cr4 & CR4_SMAP) and not vcpu.regs[RFLAGS] & RFLAGS_AC
