"""Translation of linear addresses to Hpas: stage 1, combined with stage 2 (SDM Vol. 3A, ch. 4; Vol. 3C, 29.4)."""

from typing import Final, NoReturn, Protocol

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, PAGE_SHIFT, READ, U64, WRITE, is_canonical
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault, Vector
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.ept import EP4TA, EPTP_ACCESSED_DIRTY
from hvfuzz.machine.mmu.ept_walk import CACHED, STAGE_1, STRUCTURE_1, SecondStage
from hvfuzz.machine.mmu.paging import CR3_PCID, CR4_PCIDE
from hvfuzz.machine.mmu.paging_cache import CombinedTable
from hvfuzz.machine.mmu.tlb import CombinedKey, GuestPhysicalEntry

_HIT_AND_REFERENCE: Final = Cost.TLB_HIT + Cost.WALK_REFERENCE
# Plain ints, since combining members of an IntFlag creates a new member each time.
_CODE_P, _CODE_W, _CODE_U, _CODE_RSVD, _CODE_I = (
    int(code)
    for code in (
        paging.PageFaultCode.P,
        paging.PageFaultCode.W,
        paging.PageFaultCode.U,
        paging.PageFaultCode.RSVD,
        paging.PageFaultCode.I,
    )
)
_PF: Final = Vector.PF
_ORDINARY: Final = paging.P | paging.A
_CHECKED: Final = paging.RESERVED_TABLE | paging.PS | paging.NX | _ORDINARY
# For each level: (level, shift of the index, reserved bits of a table entry, reserved bits of a leaf or -1 if the
# level has no leaves, address bits of a leaf, mask under which an ordinary table entry has just P and A).
_LEVELS: Final[tuple[tuple[int, int, int, int, int, int], ...]] = (
    (4, 39, paging.RESERVED_PML4E, -1, 0, _CHECKED),
    (3, 30, paging.RESERVED_TABLE, paging.RESERVED_1G, paging.ADDRESS & ~((1 << 30) - 1), _CHECKED),
    (2, 21, paging.RESERVED_TABLE, paging.RESERVED_2M, paging.ADDRESS & ~((1 << 21) - 1), _CHECKED),
    (1, 12, -1, paging.RESERVED_TABLE, paging.ADDRESS, 0),
)
_BELOW: Final = ((), (), _LEVELS[3:], _LEVELS[2:], _LEVELS[1:])
"""Level of a cached entry -> the levels that remain to be read."""


class PagingState(Protocol):
    """The state of a vCPU that translation depends on."""

    vpid: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    eptp: int
    regs: list[int]


class EntryChanged(Exception):
    """An entry differs from what the walker read when the walker sets a flag in it. The walk must begin again.

    Flags are set by a locked compare and exchange (SDM Vol. 3A, 9.1.2.1). It fails if the entry was read through a
    stale mapping that does not allow the write, so that the write had to walk stage 2 again.
    """


class Mmu(SecondStage):
    """Translates linear addresses of any vCPU of the machine through the TLB, the guest's tables and its EPT."""

    __slots__ = ()

    def translate(self, vcpu: PagingState, gva: int, access: int, user: bool, smap: bool = True) -> int:
        """The Hpa of linear address `gva`, for `access` (READ, WRITE or EXEC) by user or supervisor mode.

        With `smap=False` a supervisor access succeeds as if EFLAGS.AC were set; host context reads user pages of a
        guest this way. Raises GuestFault (#GP if not canonical, #PF; the caller sets CR2), EptViolation,
        EptMisconfiguration.
        """
        key = (
            vcpu.vpid,
            vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0,
            vcpu.eptp & EP4TA,
            gva >> PAGE_SHIFT,
        )
        tlb = self.tlb
        entry = tlb.combined.get(key)
        # If a hit does not allow the access, the tables decide (SDM Vol. 3A, 4.10.4.3).
        if (
            entry is not None
            and entry[1] & access == access
            and (entry[2] is user or (not user and not self._supervisor_denied(vcpu, access, smap)))
        ):
            tlb.hits += 1
            self.clock.cycles += Cost.TLB_HIT
            return entry[0] | gva & PAGE_MASK
        tlb.misses += 1
        if entry is not None:
            # A fault or EPT violation invalidates the mapping (SDM Vol. 3A, 4.10.4.1); a successful walk replaces it.
            del tlb.combined[key]
        if not is_canonical(gva):
            raise GuestFault(Vector.GP)
        structures = tlb.structures
        tables = structures.combined
        vpid, pcid, ep4ta, _ = key
        start = tables.get((vpid, pcid, ep4ta, 2, gva >> 21))
        if start is None and tables:
            start = tables.get((vpid, pcid, ep4ta, 3, gva >> 30)) or tables.get((vpid, pcid, ep4ta, 4, gva >> 39))
        if start is not None and vcpu.eptp & EPTP_ACCESSED_DIRTY and not start[2] & WRITE:
            # Cached while the flags were off. With them, such references are writes (SDM Vol. 3C, 29.3.3.2).
            structures.forget(vpid, pcid, ep4ta, gva)
            start = None
        try:
            return self._walk(vcpu, gva, access, user, smap, key, start)
        except EntryChanged:
            return self._walk_again(vcpu, gva, access, user, smap, key)
        except (GuestFault, EptViolation):
            # The fault invalidates the cached tables that led to it, so a spurious one does not repeat (4.10.4.1).
            if start is not None:
                structures.forget(key[0], key[1], key[2], gva)
            raise

    @staticmethod
    def _supervisor_denied(vcpu: PagingState, access: int, smap: bool) -> bool:
        """Whether SMEP or SMAP denies a supervisor access to a user page (SDM Vol. 3A, 4.6.1)."""
        if access & EXEC:
            return bool(vcpu.cr4 & paging.CR4_SMEP)
        return smap and bool(vcpu.cr4 & paging.CR4_SMAP) and not vcpu.regs[RFLAGS] & paging.RFLAGS_AC

    def _walk_again(self, vcpu: PagingState, gva: int, access: int, user: bool, smap: bool, key: CombinedKey) -> int:
        """Translate from the root, after EntryChanged.

        Each time, the stale mapping has been replaced or dropped, so there is at most one retry for each table.
        """
        while True:
            self.tlb.structures.forget(key[0], key[1], key[2], gva)
            try:
                return self._walk(vcpu, gva, access, user, smap, key, None)
            except EntryChanged:
                continue

    def _walk(
        self,
        vcpu: PagingState,
        gva: int,
        access: int,
        user: bool,
        smap: bool,
        key: CombinedKey,
        start: CombinedTable | None,
    ) -> int:
        """Walk the tables in memory, from the root or from the cached table `start`, and set accessed and dirty flags.

        The mapping and the tables on the way are cached.
        """
        memory = self.memory
        words = memory.words
        size = memory.size
        clock = self.clock
        record = self.record
        eptp = vcpu.eptp
        cached = self.tlb.guest_physical
        plain_reads = not eptp & EPTP_ACCESSED_DIRTY
        ep4ta = key[2]
        no_nx = 0 if vcpu.efer & paging.EFER_NXE else paging.NX
        order = 0
        seen: CombinedTable | GuestPhysicalEntry | None = start
        if start is None:
            every = paging.RW | paging.US
            some_nx = 0
            table = vcpu.cr3 & paging.ADDRESS
            levels = _LEVELS
        else:
            _, table, _, every, some_nx, level = start
            levels = _BELOW[level]
            if record is not None:
                record.append((STRUCTURE_1, level, start[0], table, every | some_nx))
        tables: list[CombinedTable] = []
        for level, shift, reserved_table, reserved_leaf, leaf_address, checked in levels:
            entry_gpa = table | (gva >> shift & 511) << 3
            if seen is not None:
                clock.cycles += _HIT_AND_REFERENCE
            else:
                # A hit of `resolve_gpa`, without the call: 1.18 times faster when the upper tables are cached.
                seen = cached.get((ep4ta, table >> PAGE_SHIFT))
                if seen is not None and seen[1] & READ and plain_reads:
                    clock.cycles += _HIT_AND_REFERENCE
                    if record is not None:
                        record.append((CACHED, 0, seen[0], table >> PAGE_SHIFT, seen[1]))
                else:
                    seen = self.resolve_gpa(eptp, entry_gpa, READ, gva, True)
                    clock.cycles += Cost.WALK_REFERENCE
                if level < 4:
                    tables.append((seen[0], table, seen[1], every, some_nx, level + 1))
            hpa = seen[0] | entry_gpa & PAGE_MASK
            seen = None
            # Where no memory answers, reads give ones.
            entry = words[hpa >> 3] if hpa < size else U64
            if record is not None:
                record.append((STAGE_1, level, hpa & ~PAGE_MASK, gva >> shift & 511, entry))
            if entry & checked == _ORDINARY:
                every &= entry  # An ordinary table entry passes all the checks below.
                table = entry & paging.ADDRESS
                continue
            # SDM Vol. 3A, 4.7: P and RSVD of the error code.
            if not entry & paging.P:
                self._page_fault(vcpu, gva, access, user, 0)
            leaf = level == 1 or (reserved_leaf != -1 and entry & paging.PS)
            if entry & (no_nx | (reserved_leaf if leaf else reserved_table)):
                self._page_fault(vcpu, gva, access, user, _CODE_P | _CODE_RSVD)
            every &= entry
            some_nx |= entry & paging.NX
            if leaf:
                order = shift - PAGE_SHIFT
                page = (entry & leaf_address) | (gva & ((1 << shift) - 1) & ~PAGE_MASK)
                break
            if not entry & paging.A:
                self._set_flags(eptp, entry_gpa, gva, entry, entry | paging.A)
            table = entry & paging.ADDRESS
        # SDM Vol. 3A, 4.6.1: access rights.
        user_page = bool(every & paging.US)
        writable = every & paging.RW
        if (
            (access & WRITE and not writable and (user or vcpu.cr0 & paging.CR0_WP))
            or (access & EXEC and some_nx)
            or (not user_page if user else user_page and self._supervisor_denied(vcpu, access, smap))
        ):
            self._page_fault(vcpu, gva, access, user, _CODE_P)
        # SDM Vol. 3A, 4.8: accessed and dirty flags.
        wanted = entry | paging.A | (paging.D if access & WRITE else 0)
        if wanted != entry:
            self._set_flags(eptp, entry_gpa, gva, entry, wanted)
        hpa_page, rights, _ = self.resolve_gpa(eptp, page | gva & PAGE_MASK, access, gva)
        if not (writable and wanted & paging.D):
            rights &= ~WRITE
        if some_nx:
            rights &= ~EXEC
        is_global = bool(entry & paging.G and vcpu.cr4 & paging.CR4_PGE)
        tlb = self.tlb
        if tables:
            tlb.structures.keep(key[0], key[1], ep4ta, gva, tables)
        tlb.insert(key, (hpa_page, rights, user_page, is_global, order, page))
        return hpa_page | gva & PAGE_MASK

    def _set_flags(self, eptp: int, entry_gpa: int, gva: int, entry: int, wanted: int) -> None:
        """Replace `entry` by `wanted`, which has the accessed or dirty flag set; for stage 2 this is a write."""
        hpa = self.resolve_gpa(eptp, entry_gpa, WRITE, gva, True)[0] | entry_gpa & PAGE_MASK
        self.clock.cycles += Cost.WALK_REFERENCE
        memory = self.memory
        if hpa < memory.size:
            if memory.words[hpa >> 3] != entry:
                raise EntryChanged
            memory.store64(hpa, wanted)

    @staticmethod
    def _page_fault(vcpu: PagingState, gva: int, access: int, user: bool, code: int) -> NoReturn:
        """Raise the #PF of this access. `code` has the bits P and RSVD of the error code (SDM Vol. 3A, 4.7)."""
        if access & WRITE:
            code |= _CODE_W
        if user:
            code |= _CODE_U
        if access & EXEC and (vcpu.efer & paging.EFER_NXE or vcpu.cr4 & paging.CR4_SMEP):
            code |= _CODE_I
        raise GuestFault(_PF, code, gva)
