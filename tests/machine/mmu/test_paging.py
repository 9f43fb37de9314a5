"""Stage 1, bit by bit: which accesses pass, the error code of the others, the flags set (SDM Vol. 3A, 4.5-4.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hvfuzz.machine.addresses import EXEC, READ, U64, WRITE
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.paging import NX, RW, US, A, D, G, P, PageFaultCode

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

RAM = 4 << 20
GVA = 0x7F12_3456_7000
LOW = 0x1234_5000
PAGE = 0x5000
ALL = P | RW | US
CP, CW, CU, CR, CI = PageFaultCode.P, PageFaultCode.W, PageFaultCode.U, PageFaultCode.RSVD, PageFaultCode.I


def configure(guest: Guest, *, wp: int = 1, nxe: int = 1, smep: int = 0, smap: int = 0, ac: int = 0) -> None:
    vcpu = guest.vcpu
    vcpu.cr0 = vcpu.cr0 & ~paging.CR0_WP | wp * paging.CR0_WP
    vcpu.efer = vcpu.efer & ~paging.EFER_NXE | nxe * paging.EFER_NXE
    vcpu.cr4 = paging.CR4_PAE | smep * paging.CR4_SMEP | smap * paging.CR4_SMAP
    vcpu.regs[Reg.RFLAGS] = 2 | ac * paging.RFLAGS_AC


def outcome(guest: Guest, access: int, user: bool, gva: int = GVA) -> int | None:
    """The error code of the #PF, or None; the access is repeated with a warm TLB, and must give the same."""
    try:
        hpa = guest.translate(gva, access, user)
    except GuestFault as fault:
        stopped = fault
    else:
        assert guest.translate(gva, access, user) == hpa
        return None
    assert stopped.vector == Vector.PF
    assert stopped.address == gva
    return stopped.error


# (leaf flags, configuration, access, user mode, error code or None)
RIGHTS: list[tuple[int, dict[str, int], int, bool, int | None]] = [
    (ALL, {}, READ, True, None),
    (ALL, {}, WRITE, True, None),
    (ALL, {}, EXEC, True, None),
    (ALL, {}, READ, False, None),
    (ALL, {}, WRITE, False, None),
    (ALL, {}, EXEC, False, None),
    # Not present.
    (0, {}, READ, False, 0),
    (0, {}, WRITE, False, CW),
    (0, {}, READ, True, CU),
    (0, {}, WRITE, True, CU | CW),
    (0, {}, EXEC, True, CU | CI),
    (0, {}, EXEC, False, CI),
    (0, {"nxe": 0}, EXEC, False, 0),
    (0, {"nxe": 0, "smep": 1}, EXEC, False, CI),
    (RW | US, {}, READ, True, CU),
    # R/W and CR0.WP.
    (P | US, {}, READ, True, None),
    (P | US, {}, WRITE, True, CP | CW | CU),
    (P | US, {}, WRITE, False, CP | CW),
    (P | US, {"wp": 0}, WRITE, False, None),
    (P | US, {"wp": 0}, WRITE, True, CP | CW | CU),
    (P, {"wp": 0}, WRITE, False, None),
    (P, {}, WRITE, False, CP | CW),
    # U/S.
    (P | RW, {}, READ, True, CP | CU),
    (P | RW, {}, WRITE, True, CP | CU | CW),
    (P | RW, {}, EXEC, True, CP | CU | CI),
    (P | RW, {"nxe": 0}, EXEC, True, CP | CU),
    (P | RW, {}, READ, False, None),
    # NX and EFER.NXE.
    (ALL | NX, {}, READ, True, None),
    (ALL | NX, {}, EXEC, True, CP | CU | CI),
    (ALL | NX, {}, EXEC, False, CP | CI),
    (ALL | NX, {"nxe": 0}, READ, True, CP | CU | CR),
    (ALL | NX, {"nxe": 0}, EXEC, False, CP | CR),
    # SMEP.
    (ALL, {"smep": 1}, EXEC, False, CP | CI),
    (ALL, {"smep": 1}, EXEC, True, None),
    (ALL, {"smep": 1}, READ, False, None),
    (P | RW, {"smep": 1}, EXEC, False, None),
    (ALL, {"smep": 1, "nxe": 0}, EXEC, False, CP | CI),
    # SMAP and EFLAGS.AC.
    (ALL, {"smap": 1}, READ, False, CP),
    (ALL, {"smap": 1}, WRITE, False, CP | CW),
    (ALL, {"smap": 1}, EXEC, False, None),
    (ALL, {"smap": 1}, READ, True, None),
    (ALL, {"smap": 1, "ac": 1}, READ, False, None),
    (ALL, {"smap": 1, "ac": 1}, WRITE, False, None),
    (P | US, {"smap": 1, "ac": 1}, WRITE, False, CP | CW),
    (P | US, {"smap": 1, "wp": 0}, WRITE, False, CP | CW),
    (P | RW, {"smap": 1}, READ, False, None),
    (P | RW, {"smap": 1}, WRITE, False, None),
]


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(("flags", "config", "access", "user", "expected"), RIGHTS)
def test_rights(
    guest: Guest, flags: int, config: dict[str, int], access: int, user: bool, expected: int | None, level: int
) -> None:
    configure(guest, **config)
    guest.map(LOW if level == 3 else GVA, PAGE if level == 1 else 0, flags, level)
    if level > 1:  # The offset within the large page must be in the guest's memory.
        gva = LOW & ~0x1FFFFFFF | PAGE if level == 3 else GVA & ~0x1FFFFF | PAGE
        guest.map(gva, 0, flags, level)
        assert outcome(guest, access, user, gva) == expected
    else:
        assert outcome(guest, access, user) == expected


@pytest.mark.parametrize("upper", [4, 3, 2])
@pytest.mark.parametrize(("flags", "config", "access", "user", "expected"), RIGHTS)
def test_a_table_entry_takes_rights_away_as_a_leaf_does(
    guest: Guest, flags: int, config: dict[str, int], access: int, user: bool, expected: int | None, upper: int
) -> None:
    configure(guest, **config)
    guest.map(GVA, PAGE, ALL)
    slot = guest.entry(GVA, upper)
    guest.memory.store64(slot, guest.memory.load64(slot) & paging.ADDRESS | flags)
    assert outcome(guest, access, user) == expected


def reserved_bits() -> list[tuple[int, int, int]]:
    """(level of the leaf, level of the entry, bit) for every reserved bit, with MAXPHYADDR 40."""
    cases = [(1, level, bit) for level in (1, 2, 3, 4) for bit in range(40, 52)] + [(1, 4, 7)]
    cases += [(2, 2, bit) for bit in (*range(13, 21), *range(40, 52))]
    cases += [(3, 3, bit) for bit in (*range(13, 30), *range(40, 52))]
    return cases


@pytest.mark.parametrize(("leaf", "level", "bit"), reserved_bits())
def test_reserved_bits(guest: Guest, leaf: int, level: int, bit: int) -> None:
    gva = GVA & ~((1 << 12 + 9 * (leaf - 1)) - 1)
    guest.map(gva, PAGE if leaf == 1 else 0, ALL, leaf)
    slot = guest.entry(gva, level)
    guest.memory.store64(slot, guest.memory.load64(slot) | 1 << bit)
    assert outcome(guest, WRITE, True, gva) == CP | CR | CW | CU
    # Without P, the other bits of an entry are ignored.
    guest.memory.store64(slot, guest.memory.load64(slot) & ~P)
    assert outcome(guest, WRITE, True, gva) == CW | CU


@pytest.mark.parametrize("bit", [3, 4, 7, 8, 9, 10, 11, *range(52, 63)])
def test_ignored_bits_of_a_pte(guest: Guest, bit: int) -> None:
    guest.map(GVA, PAGE, ALL | 1 << bit)
    assert outcome(guest, WRITE, True) is None


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("bit", [3, 4, 6, 8, 9, 10, 11, *range(52, 63)])
def test_ignored_bits_of_a_table_entry(guest: Guest, level: int, bit: int) -> None:
    guest.map(GVA, PAGE, ALL)
    slot = guest.entry(GVA, level)
    guest.memory.store64(slot, guest.memory.load64(slot) | 1 << bit)
    assert outcome(guest, WRITE, True) is None


def test_bit_12_of_a_large_leaf_is_pat(guest: Guest) -> None:
    gva = GVA & ~0x1FFFFF
    guest.map(gva, 0x1000, ALL, 2)
    assert guest.translate(gva | 0x3456, READ) == RAM + 0x3456


@pytest.mark.parametrize(
    ("level", "gva", "gpa"),
    [(1, GVA | 0x123, PAGE | 0x123), (2, 0x40_0000 | 0x1_2345, 0x1_2345), (3, 0x9_8765, 0x9_8765)],
)
def test_addresses(guest: Guest, level: int, gva: int, gpa: int) -> None:
    guest.map(gva & ~0xFFF, gpa & ~0xFFF if level == 1 else 0, ALL, level)
    assert guest.translate(gva, READ) == RAM + gpa
    assert guest.translate(gva, READ) == RAM + gpa


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("access", [READ, WRITE, EXEC])
def test_accessed_and_dirty(guest: Guest, level: int, access: int) -> None:
    gva = PAGE
    guest.map(gva, PAGE if level == 1 else 0, ALL, level)
    for table in range(level + 1, 5):
        slot = guest.entry(gva, table)
        guest.memory.store64(slot, guest.memory.load64(slot) & ~A)
    guest.translate(gva, access)
    for table in range(level, 5):
        entry = guest.memory.load64(guest.entry(gva, table))
        assert entry & A
        assert bool(entry & D) == (access == WRITE and table == level)


@pytest.mark.parametrize("user", [False, True])
def test_a_denied_access_leaves_the_leaf_alone(guest: Guest, user: bool) -> None:
    slot = guest.map(GVA, PAGE, P)
    assert outcome(guest, WRITE, user) is not None
    assert guest.memory.load64(slot) == PAGE | P


@pytest.mark.parametrize(
    ("gva", "canonical"),
    [
        (0, True),
        ((1 << 47) - 1, True),
        (1 << 47, False),
        ((1 << 64) - (1 << 47) - 1, False),
        ((1 << 64) - (1 << 47), True),
        (U64, True),
        (1 << 63, False),
        (1 << 64, False),
    ],
)
@pytest.mark.parametrize("user", [False, True])
def test_canonical_addresses(guest: Guest, gva: int, canonical: bool, user: bool) -> None:
    with pytest.raises(GuestFault) as raised:
        guest.translate(gva, READ, user)
    assert raised.value.vector == (Vector.PF if canonical else Vector.GP)
    if not canonical:
        assert raised.value.error == 0


@pytest.mark.parametrize("warm", [False, True])
def test_smap_may_be_left_out_for_host_context(guest: Guest, warm: bool) -> None:
    configure(guest, smap=1, smep=1)
    guest.map(GVA, PAGE, ALL)
    if warm:
        guest.translate(GVA, READ, True)
    assert guest.translate(GVA, READ, smap=False) == RAM + PAGE
    assert outcome(guest, READ, False) == CP
    with pytest.raises(GuestFault):
        guest.translate(GVA, EXEC, smap=False)


def test_tables_beyond_memory_read_as_ones(guest: Guest) -> None:
    guest.map(GVA, PAGE, ALL)
    guest.memory.store64(guest.ept_leaf(guest.vcpu.cr3), 0xFF_0000_0000 | 0x37)
    assert outcome(guest, READ, False) == CP | CR


def test_a_walk_can_be_recorded(guest: Guest) -> None:
    slot = guest.map(GVA, PAGE, ALL | A)
    record: list[Any] = []
    guest.machine.mmu.record = record
    guest.translate(GVA, READ)
    first = [step for step in record if step[0] == 1]
    assert [level for _, level, *_ in first] == [4, 3, 2, 1]
    assert [index for *_, index, _ in first] == [GVA >> shift & 511 for shift in (39, 30, 21, 12)]
    assert first[-1] == (1, 1, slot & ~0xFFF, GVA >> 12 & 511, PAGE | ALL | A)
    # Four stage-1 tables and the page: the first takes four stage-2 references, the others fewer by the cache.
    assert [level for stage, level, *_ in record if stage == 2] == [4, 3, 2, 1, 1, 1, 1, 1]
    assert [step[:3] for step in record if step[0] == 4] == [(4, 2, 0x4000)] * 4
    assert [level for stage, level, *_ in record[:5]] == [4, 3, 2, 1, 4]
    record.clear()
    guest.translate(GVA, READ)
    assert record == []
    # The next page of the same table.
    guest.map(GVA + 0x1000, PAGE, ALL | A)
    guest.translate(GVA + 0x1000, READ)
    table = slot & ~0xFFF
    assert record == [
        (3, 2, table, table - RAM, paging.RW | paging.US),
        (1, 1, table, (GVA >> 12 & 511) + 1, PAGE | ALL | A),
        (0, 0, RAM + PAGE, PAGE >> 12, 7),
    ]


def test_without_capacity_each_entry_is_read_each_time(guest: Guest) -> None:
    """SDM Vol. 3C, 29.3: four stage-1 tables and the page, each by four stage-2 references."""
    guest.map(GVA, PAGE, ALL | A)
    guest.machine.tlb.set_capacity(0)
    for _ in range(2):
        guest.machine.mmu.record = record = []
        guest.translate(GVA, READ)
        assert [step[0] for step in record] == [2, 2, 2, 2, 1] * 4 + [2] * 4


def test_the_clock_pays_for_each_reference(guest: Guest) -> None:
    guest.map(GVA, PAGE, ALL | A)
    clock = guest.machine.clock
    guest.translate(GVA, READ)
    cold, clock.cycles = clock.cycles, 0
    guest.translate(GVA, READ)
    warm, clock.cycles = clock.cycles, 0
    guest.machine.tlb.flush_vpid(guest.vcpu.vpid)
    guest.translate(GVA, READ)
    assert 0 < warm < clock.cycles < cold


def test_global_is_a_leaf_bit_and_needs_pge(guest: Guest) -> None:
    guest.map(GVA, PAGE, ALL | G)
    for cr4, expected in ((paging.CR4_PAE, False), (paging.CR4_PAE | paging.CR4_PGE, True)):
        guest.vcpu.cr4 = cr4
        guest.flush()
        guest.translate(GVA, READ)
        assert [entry[3] for entry in guest.machine.tlb.combined.values()] == [expected]
