"""The TLB: what it keeps, what each invalidation drops, and that stale entries are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.machine.addresses import EXEC, READ, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.machine.mmu.paging import NX, RW, US, A, D, G, P
from hvfuzz.machine.mmu.tlb import CombinedKey, InvpcidKind, Tlb

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

RAM = 4 << 20
GVA = 0x7F12_3456_7000
PAGE, OTHER = 0x5000, 0x6000
KERNEL = P | RW | A | D

# ------------------------------------------------------------- the cache alone


def filled(*keys: CombinedKey, is_global: bool = False, order: int = 0) -> Tlb:
    tlb = Tlb()
    for key in keys:
        tlb.insert(key, (0, 7, True, is_global, order, 0))
    return tlb


def test_eviction_is_first_in_first_out() -> None:
    tlb = Tlb(capacity=3)
    for page in (1, 2, 3, 2, 4, 5):
        tlb.insert((1, 0, 0, page), (page, 7, True, False, 0, 0))
        tlb.insert_guest_physical((0, page), (page, 7, 0))
    assert [key[3] for key in tlb.combined] == [3, 4, 5]
    assert [key[1] for key in tlb.guest_physical] == [3, 4, 5]
    tlb.set_capacity(1)
    assert [key[3] for key in tlb.combined] == [5]
    assert [key[1] for key in tlb.guest_physical] == [5]
    tlb.set_capacity(0)
    tlb.insert((1, 0, 0, 9), (9, 7, True, False, 0, 0))
    tlb.insert_guest_physical((0, 9), (9, 7, 0))
    assert not tlb.combined
    assert not tlb.guest_physical
    with pytest.raises(ValueError, match="negative"):
        tlb.set_capacity(-1)


KEYS: list[CombinedKey] = [
    (vpid, pcid, root, page) for vpid in (1, 2) for pcid in (0, 5) for root in (0x1000, 0x2000) for page in (8, 9)
]


@pytest.mark.parametrize("is_global", [False, True])
def test_what_each_invalidation_leaves(is_global: bool) -> None:
    def left(tlb: Tlb) -> set[CombinedKey]:
        return set(KEYS) - set(tlb.combined)

    def doomed(**which: int) -> set[CombinedKey]:
        names = ("vpid", "pcid", "root", "page")
        return {key for key in KEYS if all(key[names.index(name)] == value for name, value in which.items())}

    tlb = filled(*KEYS, is_global=is_global)
    tlb.invlpg(1, 5, 8 << 12 | 0x123)
    assert left(tlb) == (doomed(vpid=1, page=8) if is_global else doomed(vpid=1, pcid=5, page=8))
    for kind, expected in (
        (InvpcidKind.ADDRESS, doomed(vpid=1, pcid=5, page=8)),
        (InvpcidKind.SINGLE, doomed(vpid=1, pcid=5)),
        (InvpcidKind.ALL, doomed(vpid=1)),
    ):
        tlb = filled(*KEYS, is_global=is_global)
        tlb.invpcid(kind, 1, 5, 8 << 12)
        assert left(tlb) == (set() if is_global else expected)
    tlb = filled(*KEYS, is_global=is_global)
    tlb.invpcid(InvpcidKind.ALL_GLOBAL, 1)
    assert left(tlb) == doomed(vpid=1)
    tlb = filled(*KEYS, is_global=is_global)
    tlb.flush_vpid(2)
    assert left(tlb) == doomed(vpid=2)
    tlb = filled(*KEYS, is_global=is_global)
    tlb.flush_pcid(2, 5)
    assert left(tlb) == doomed(vpid=2, pcid=5)


def test_invept_drops_both_kinds_of_one_root_or_of_all() -> None:
    tlb = filled(*KEYS)
    for root in (0x1000, 0x2000):
        tlb.insert_guest_physical((root, 3), (0, 7, 0))
    tlb.invept(ept.eptp_of(0x1000, accessed_dirty=True))
    assert {key[2] for key in tlb.combined} == {0x2000}
    assert list(tlb.guest_physical) == [(0x2000, 3)]
    tlb.invept(None)
    assert not tlb.combined
    assert not tlb.guest_physical


def test_a_large_page_goes_as_a_whole() -> None:
    keys: list[CombinedKey] = [(1, 0, 0, 0x200), (1, 0, 0, 0x201), (1, 0, 0, 0x3FF), (1, 0, 0, 0x400), (1, 0, 0, 0x1FF)]
    tlb = filled(*keys, order=9)
    tlb.invlpg(1, 0, 0x2AB << 12)
    assert {key[3] for key in tlb.combined} == {0x400, 0x1FF}


# ----------------------------------------------------------------- staleness


def test_a_mapping_is_used_until_it_is_invalidated(guest: Guest) -> None:
    slot = guest.map(GVA, PAGE, KERNEL)
    assert guest.translate(GVA, WRITE) == RAM + PAGE
    guest.memory.store64(slot, 0)
    assert guest.translate(GVA, WRITE) == RAM + PAGE
    guest.vcpu.invlpg(GVA)
    with pytest.raises(GuestFault):
        guest.translate(GVA, WRITE)


def test_a_stage_2_mapping_is_used_until_it_is_invalidated(guest: Guest) -> None:
    guest.map(GVA, PAGE, KERNEL)
    guest.translate(GVA, WRITE)
    guest.memory.store64(guest.ept_leaf(PAGE), 0)
    assert guest.translate(GVA, WRITE) == RAM + PAGE
    # INVLPG and INVVPID drop the combined mapping, but not the guest-physical one.
    guest.vcpu.invlpg(GVA)
    assert guest.translate(GVA, WRITE) == RAM + PAGE
    guest.machine.tlb.flush_vpid(guest.vcpu.vpid)
    assert guest.translate(GVA, WRITE) == RAM + PAGE
    guest.machine.tlb.invept(guest.vcpu.eptp)
    with pytest.raises(EptViolation):
        guest.translate(GVA, WRITE)


@pytest.mark.parametrize("access", [READ, WRITE, EXEC])
def test_rights_taken_away_are_kept_by_the_tlb(guest: Guest, access: int) -> None:
    slot = guest.map(GVA, PAGE, KERNEL | US)
    guest.translate(GVA, access, True)
    guest.memory.store64(slot, PAGE | P | NX)
    guest.memory.store64(guest.ept_leaf(PAGE), RAM | PAGE | 0x31)
    assert guest.translate(GVA, access, True) == RAM + PAGE


@pytest.mark.parametrize("level", [4, 3, 2])
def test_a_stale_table_is_reached_through_a_guest_physical_mapping(guest: Guest, level: int) -> None:
    guest.map(GVA, PAGE, KERNEL)
    guest.translate(GVA, READ)
    table = guest.entry(GVA, level) - RAM & ~0xFFF
    guest.memory.store64(guest.ept_leaf(table), 0)
    guest.vcpu.invlpg(GVA)
    assert guest.translate(GVA, READ) == RAM + PAGE
    guest.flush()
    with pytest.raises(EptViolation):
        guest.translate(GVA, READ)


def test_more_rights_need_no_invalidation(guest: Guest) -> None:
    slot = guest.map(GVA, PAGE, P | NX)
    leaf = guest.ept_leaf(PAGE)
    guest.memory.store64(leaf, RAM | PAGE | 0x31)
    guest.translate(GVA, READ)
    for access in (WRITE, EXEC):
        with pytest.raises(GuestFault):
            guest.translate(GVA, access)
    guest.translate(GVA, READ)
    guest.memory.store64(slot, PAGE | P | RW)
    for access in (WRITE, EXEC):
        with pytest.raises(EptViolation):
            guest.translate(GVA, access)
    guest.memory.store64(leaf, RAM | PAGE | 0x37)
    for access in (WRITE, EXEC):
        assert guest.translate(GVA, access) == RAM + PAGE
    guest.memory.store64(slot, OTHER | P | RW | US)
    assert guest.translate(GVA, READ, True) == RAM + OTHER


def test_a_fault_invalidates_what_was_cached_for_its_address(guest: Guest) -> None:
    slot = guest.map(GVA, PAGE, P)
    guest.translate(GVA, READ)
    guest.memory.store64(slot, 0)
    with pytest.raises(GuestFault):
        guest.translate(GVA, WRITE)
    with pytest.raises(GuestFault):
        guest.translate(GVA, READ)


def test_a_violation_invalidates_what_was_cached_for_its_address(guest: Guest) -> None:
    guest.map(GVA, PAGE, KERNEL)
    guest.memory.store64(guest.ept_leaf(PAGE), RAM | PAGE | 0x31)
    guest.translate(GVA, READ)
    guest.memory.store64(guest.ept_leaf(PAGE), 0)
    guest.translate(GVA, READ)
    for access in (WRITE, READ):
        with pytest.raises(EptViolation):
            guest.translate(GVA, access)


def test_the_first_write_walks_to_set_dirty(guest: Guest) -> None:
    slot = guest.map(GVA, PAGE, P | RW | A)
    guest.translate(GVA, READ)
    assert not guest.memory.load64(slot) & D
    guest.translate(GVA, WRITE)
    assert guest.memory.load64(slot) & D
    # The dirty flag was cached as set, so further writes do not walk the tables.
    guest.memory.store64(slot, PAGE | P | RW | A)
    guest.translate(GVA, WRITE)
    assert not guest.memory.load64(slot) & D


def test_translations_are_tagged(guest: Guest) -> None:
    guest.map(GVA, PAGE, KERNEL)
    other = guest.machine.add_vcpu(1)
    other.cr3, other.eptp = guest.vcpu.cr3, guest.vcpu.eptp
    guest.translate(GVA, READ)
    slot = guest.map(GVA, OTHER, KERNEL)
    translate = guest.machine.mmu.translate
    assert translate(other, GVA, READ, False) == RAM + OTHER
    assert translate(guest.vcpu, GVA, READ, False) == RAM + PAGE
    guest.vcpu.cr4 |= paging.CR4_PCIDE
    guest.vcpu.cr3 |= 5
    assert guest.translate(GVA, READ) == RAM + OTHER
    guest.vcpu.cr3 &= ~5
    assert guest.translate(GVA, READ) == RAM + PAGE
    # Another EPT root is another tag, even with the same tables below it.
    guest.memory.store64(0x9000, guest.memory.load64(0x1000))
    guest.memory.store64(slot, PAGE | KERNEL)
    other.eptp = ept.eptp_of(0x9000)
    assert translate(other, GVA, READ, False) == RAM + PAGE
    assert guest.machine.tlb.misses == 4


def test_hits_and_misses_are_counted(guest: Guest) -> None:
    guest.map(GVA, PAGE, P | RW | A)
    for _ in range(3):
        guest.translate(GVA, READ)
    guest.translate(GVA, WRITE)
    guest.translate(GVA, WRITE)
    assert (guest.machine.tlb.hits, guest.machine.tlb.misses) == (3, 2)


def test_without_capacity_nothing_is_stale(guest: Guest) -> None:
    guest.machine.tlb.set_capacity(0)
    slot = guest.map(GVA, PAGE, KERNEL)
    guest.translate(GVA, READ)
    guest.memory.store64(slot, OTHER | KERNEL)
    assert guest.translate(GVA, READ) == RAM + OTHER
    guest.memory.store64(guest.ept_leaf(OTHER), 0)
    with pytest.raises(EptViolation):
        guest.translate(GVA, READ)


# ------------------------------------------- what control registers flush


@pytest.mark.parametrize(
    ("register", "value", "survives"),
    [
        (3, 0x10_0000, "global"),
        (4, paging.CR4_PAE, ""),  # PGE changes.
        (4, paging.CR4_PAE | paging.CR4_PGE | paging.CR4_SMEP, ""),
        (4, paging.CR4_PAE | paging.CR4_PGE | paging.CR4_SMAP, "plain global"),
        (0, 0x8000_0033, "plain global"),
        (2, 5, "plain global"),
    ],
)
def test_control_registers_without_pcid(guest: Guest, register: int, value: int, survives: str) -> None:
    guest.vcpu.cr4 |= paging.CR4_PGE
    slots = {"plain": guest.map(GVA, PAGE, KERNEL), "global": guest.map(GVA + 0x1000, PAGE, KERNEL | G)}
    for n, slot in enumerate(slots.values()):
        guest.translate(GVA + 0x1000 * n, READ)
        guest.memory.store64(slot, OTHER | KERNEL)
    guest.vcpu.mov_cr(register, value)
    kept = [name for n, name in enumerate(slots) if guest.translate(GVA + 0x1000 * n, READ) == RAM + PAGE]
    assert kept == survives.split()


@pytest.mark.parametrize(
    ("register", "value", "survives"),
    [
        (3, 0x10_0005, {0, 7}),
        (3, 0x10_0007, {0, 5}),
        (3, 0x10_0007 | 1 << 63, {0, 5, 7}),
        (4, paging.CR4_PAE | paging.CR4_PCIDE | paging.CR4_SMEP, {0, 7}),
        (4, paging.CR4_PAE, set()),
    ],
)
def test_control_registers_with_pcid(guest: Guest, register: int, value: int, survives: set[int]) -> None:
    guest.vcpu.cr4 |= paging.CR4_PCIDE
    guest.map(GVA, PAGE, KERNEL)
    for pcid in (0, 7, 5):
        guest.vcpu.cr3 = 0x10_0000 | pcid
        guest.translate(GVA, READ)
    guest.vcpu.mov_cr(register, value)
    assert guest.vcpu.cr3 >> 63 == 0
    assert {key[1] for key in guest.machine.tlb.combined} == survives


# ---------------------------------------------------------------------- laws

leaf_flags = st.sampled_from([KERNEL, KERNEL | US, P, P | US, P | RW, P | RW | US | NX, P | US | NX | A, 0, KERNEL | G])
ept_rights = st.sampled_from([7, 7, 7, 5, 3, 1, 4, 0, 2])
accesses = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([READ, WRITE, EXEC]), st.booleans(), st.integers(0, 15)), max_size=25
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), leaf_flags), min_size=6, max_size=6),
    st.lists(ept_rights, min_size=6, max_size=6),
    accesses,
    st.sampled_from([0, 1, 3, 64]),
    st.booleans(),
)
def test_while_tables_are_left_alone_the_tlb_changes_nothing(
    new_guest: type[Guest],
    leaves: list[tuple[int, int]],
    rights: list[int],
    probes: list[tuple[int, int, bool, int]],
    capacity: int,
    accessed_dirty: bool,
) -> None:
    """The same accesses with a TLB and without one have the same outcomes, and leave the same tables."""
    outcomes = []
    for size in (0, capacity):
        guest = new_guest()
        guest.machine.tlb.set_capacity(size)
        guest.vcpu.eptp = ept.eptp_of(0x1000, accessed_dirty=accessed_dirty)
        for n, (page, flags) in enumerate(leaves):
            guest.map(GVA + 0x1000 * n, PAGE + 0x1000 * page, flags)
        for n, right in enumerate(rights):
            guest.memory.store64(guest.ept_leaf(PAGE + 0x1000 * n), RAM + PAGE + 0x1000 * n | 0x30 | right)
        seen: list[object] = []
        for page, access, user, mode in probes:
            guest.vcpu.cr0 = guest.vcpu.cr0 & ~paging.CR0_WP | (paging.CR0_WP if mode & 1 else 0)
            guest.vcpu.cr4 = (
                paging.CR4_PAE | (paging.CR4_SMAP if mode & 2 else 0) | (paging.CR4_SMEP if mode & 4 else 0)
            )
            guest.vcpu.regs[Reg.RFLAGS] = paging.RFLAGS_AC if mode & 8 else 0
            try:
                seen.append(guest.translate(GVA + 0x1000 * page, access, user))
            except (GuestFault, EptViolation, EptMisconfiguration) as stopped:
                seen.append(str(stopped))
        outcomes.append((seen, guest.memory.read(0, guest.memory.size)))
    assert outcomes[0] == outcomes[1]
