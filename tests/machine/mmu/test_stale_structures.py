"""Stale paging-structure entries: what drops them, what does not, and which tables they lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from hvfuzz.machine.addresses import EXEC, READ, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.machine.mmu.paging import NX, RW, US, A, D, G, P
from hvfuzz.machine.mmu.tlb import InvpcidKind, InvvpidKind

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

RAM = 4 << 20
GVA = 0x7F12_3456_7000
NEXT = GVA + 0x1000
ELSEWHERE = 0x1234_5000
"""Shares no entry with the others, not even a PML4E."""
PAGE, OTHER = 0x5000, 0x6000
KERNEL = P | RW | A | D
TABLE = P | RW | US | A
SPARE = 0x1F_0000
"""Three pages for replacement tables."""

# ------------------------------------------------------- stage 1: stale entries


def replace(guest: Guest, level: int) -> None:
    """Let the entry of `level` for GVA reference other tables, which map NEXT to OTHER instead of PAGE."""
    guest.memory.write(RAM + SPARE, bytes(0x3000))
    for step in range(level - 1, 0, -1):
        below = SPARE + 0x1000 * (step - 1)
        entry = (below - 0x1000 | TABLE) if step > 1 else OTHER | KERNEL
        guest.memory.store64(RAM + below + 8 * (NEXT >> 12 + 9 * (step - 1) & 511), entry)
    guest.memory.store64(guest.entry(GVA, level), SPARE + 0x1000 * (level - 2) | TABLE)


def walked(guest: Guest, level: int) -> None:
    """GVA was accessed and NEXT was not; then the entry of `level` that both share is replaced."""
    guest.map(GVA, PAGE, KERNEL)
    guest.map(NEXT, PAGE, KERNEL)
    guest.map(ELSEWHERE, PAGE, KERNEL)
    guest.translate(GVA, READ)
    # Drop deeper entries, so that the test sees the one of this level.
    cached = guest.machine.tlb.structures.combined
    for key in [key for key in cached if key[3] < level]:
        del cached[key]
    replace(guest, level)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_stale_entry_leads_to_the_old_table_and_its_present_content(guest: Guest, level: int) -> None:
    leaf = guest.map(NEXT, PAGE, KERNEL)
    walked(guest, level)
    assert guest.memory.load64(leaf) == PAGE | KERNEL
    guest.memory.store64(leaf, 0x7000 | KERNEL)
    # Even if the entry itself is no longer present.
    slot = guest.entry(NEXT, level)
    entry = guest.memory.load64(slot)
    guest.memory.store64(slot, 0)
    assert guest.translate(NEXT, READ) == RAM + 0x7000
    guest.memory.store64(slot, entry)
    guest.vcpu.invlpg(NEXT)
    assert guest.translate(NEXT, READ) == RAM + OTHER


def a_fault_in_the_same_region(guest: Guest) -> None:
    with pytest.raises(GuestFault):
        guest.translate(GVA + 0x2000, READ)


def a_fault_elsewhere(guest: Guest) -> None:
    with pytest.raises(GuestFault):
        guest.translate(0x4000_0000_0000, READ)


def a_violation_in_the_same_region(guest: Guest) -> None:
    slot = guest.entry(GVA, 4)
    entry = guest.memory.load64(slot)
    cached = guest.machine.tlb.structures.combined
    assert cached
    # By the old tables, which the cached entry references.
    guest.memory.store64(guest.ept_leaf(0x7000), 0)
    table = next(iter(table for key, table in cached.items() if key[3] == 2))
    guest.memory.store64(table[0] + 8 * ((GVA + 0x2000) >> 12 & 511), 0x7000 | KERNEL)
    with pytest.raises(EptViolation):
        guest.translate(GVA + 0x2000, READ)
    assert guest.memory.load64(slot) == entry


def leave_and_enter(guest: Guest) -> None:
    guest.machine.exit_handler = lambda _vcpu: None
    guest.vcpu.cpuid(0)


def without_vpid(guest: Guest) -> None:
    """Retag the entries, as if a vCPU without a VPID had made them."""
    guest.vcpu.vpid = 0
    guest.machine.tlb.combined.clear()
    cached = guest.machine.tlb.structures.combined
    moved = {(0, *key[1:]): table for key, table in cached.items()}
    cached.clear()
    cached.update(moved)


def enter_without_vpid(guest: Guest) -> None:
    without_vpid(guest)
    leave_and_enter(guest)


def with_pcid(guest: Guest) -> None:
    guest.vcpu.cr4 |= paging.CR4_PCIDE


def moved_to_cr3(flags: int) -> Callable[[Guest], None]:
    def move(guest: Guest) -> None:
        with_pcid(guest)
        guest.vcpu.mov_cr(3, guest.vcpu.cr3 & ~0xFFF | flags)
        guest.vcpu.cr3 &= ~0xFFF

    return move


def to_cr4(flags: int, before: int = 0) -> Callable[[Guest], None]:
    def move(guest: Guest) -> None:
        guest.vcpu.cr4 |= before
        guest.vcpu.mov_cr(4, paging.CR4_PAE | flags)

    return move


def tlb_does(act: Callable[[Any, Any], None]) -> Callable[[Guest], None]:
    return lambda guest: act(guest.machine.tlb, guest.vcpu)


FAR = 1 << 46
DROPS: dict[str, Callable[[Guest], None]] = {
    "INVLPG of any address": lambda guest: guest.vcpu.invlpg(ELSEWHERE),
    "INVPCID, address": lambda guest: guest.vcpu.invpcid(InvpcidKind.ADDRESS, 0, NEXT),
    "INVPCID, single": lambda guest: guest.vcpu.invpcid(InvpcidKind.SINGLE, 0),
    "INVPCID, all": lambda guest: guest.vcpu.invpcid(InvpcidKind.ALL, 0),
    "INVPCID, all with globals": lambda guest: guest.vcpu.invpcid(InvpcidKind.ALL_GLOBAL, 0),
    "MOV to CR3": lambda guest: guest.vcpu.mov_cr(3, guest.vcpu.cr3),
    "MOV to CR3 with its PCID": moved_to_cr3(0),
    "CR4.PGE": to_cr4(paging.CR4_PGE),
    "CR4.SMEP set": to_cr4(paging.CR4_SMEP),
    "CR4.PCIDE cleared": to_cr4(0, paging.CR4_PCIDE),
    "a page fault in the region": a_fault_in_the_same_region,
    "VM exit and entry without VPID": enter_without_vpid,
    "INVVPID, address": tlb_does(lambda tlb, vcpu: tlb.invvpid(InvvpidKind.ADDRESS, vcpu.vpid, NEXT)),
    "INVVPID, single": tlb_does(lambda tlb, vcpu: tlb.invvpid(InvvpidKind.SINGLE, vcpu.vpid)),
    "INVVPID, all": tlb_does(lambda tlb, vcpu: tlb.invvpid(InvvpidKind.ALL)),
    "INVVPID, all but globals": tlb_does(lambda tlb, vcpu: tlb.invvpid(InvvpidKind.RETAINING_GLOBALS, vcpu.vpid)),
    "INVEPT, single": tlb_does(lambda tlb, vcpu: tlb.invept(vcpu.eptp)),
    "INVEPT, all": tlb_does(lambda tlb, vcpu: tlb.invept(None)),
}
KEEPS: dict[str, Callable[[Guest], None]] = {
    "nothing": lambda guest: None,
    "INVPCID, another address": lambda guest: guest.vcpu.invpcid(InvpcidKind.ADDRESS, 0, ELSEWHERE),
    "INVPCID, another PCID": lambda guest: (with_pcid(guest), guest.vcpu.invpcid(InvpcidKind.SINGLE, 5))[1],
    "MOV to CR3 with bit 63": moved_to_cr3(paging.CR3_NO_FLUSH),
    "MOV to CR3 with another PCID": moved_to_cr3(5),
    "MOV to CR0": lambda guest: guest.vcpu.mov_cr(0, 0x8000_0033),
    "CR4.SMAP": to_cr4(paging.CR4_SMAP),
    "CR4.SMEP cleared": to_cr4(0, paging.CR4_SMEP),
    "a page fault elsewhere": a_fault_elsewhere,
    "VM exit and entry": leave_and_enter,
    "VPIDs are off, and nothing else": without_vpid,
    "INVVPID, another address": tlb_does(lambda tlb, vcpu: tlb.invvpid(InvvpidKind.ADDRESS, vcpu.vpid, FAR)),
    "INVVPID, another VPID": tlb_does(lambda tlb, vcpu: tlb.invvpid(InvvpidKind.SINGLE, vcpu.vpid + 1)),
    "INVEPT, another root": tlb_does(lambda tlb, vcpu: tlb.invept(ept.eptp_of(0x9000))),
}


@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("level", [2, 3, 4])
def test_an_entry_is_dropped_by(guest: Guest, level: int, name: str) -> None:
    walked(guest, level)
    DROPS[name](guest)
    assert guest.translate(NEXT, READ) == RAM + OTHER


@pytest.mark.parametrize("name", KEEPS)
@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_stale_entry_is_used_in_spite_of(guest: Guest, level: int, name: str) -> None:
    walked(guest, level)
    KEEPS[name](guest)
    assert guest.translate(NEXT, READ) == RAM + PAGE


def test_a_violation_drops_the_way_to_its_address(guest: Guest) -> None:
    guest.map(GVA, PAGE, KERNEL)
    guest.map(NEXT, PAGE, KERNEL)
    guest.translate(GVA, READ)
    a_violation_in_the_same_region(guest)
    assert not guest.machine.tlb.structures.combined


def test_a_fault_by_way_of_a_stale_entry_does_not_come_again(guest: Guest) -> None:
    """SDM Vol. 3A, 4.10.4.1: it drops the cached entries that led to it, so that the tables decide the next time."""
    walked(guest, 2)
    new = guest.machine.memory.load64(RAM + SPARE + 8 * (NEXT >> 12 & 511))
    third = GVA + 0x2000
    guest.memory.store64(RAM + SPARE + 8 * (third >> 12 & 511), new)
    with pytest.raises(GuestFault):
        guest.translate(third, READ)
    assert guest.translate(third, READ) == RAM + OTHER


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize(("bits", "access", "user"), [(RW, WRITE, False), (US, READ, True), (NX, EXEC, False)])
def test_rights_of_cached_entries_count(guest: Guest, level: int, bits: int, access: int, user: bool) -> None:
    """As for entries that are read: a table below cannot restore a right that one above denies."""
    guest.vcpu.cr0 |= paging.CR0_WP
    flags = KERNEL | US
    guest.map(GVA, PAGE, flags)
    guest.map(NEXT, PAGE, flags)
    slot = guest.entry(GVA, level)
    entry = guest.memory.load64(slot)
    guest.memory.store64(slot, entry ^ bits)
    guest.translate(GVA, READ)
    assert [key[3] for key in guest.machine.tlb.structures.combined] == [4, 3, 2]
    guest.memory.store64(slot, entry)
    with pytest.raises(GuestFault):
        guest.translate(NEXT, access, user)
    assert guest.translate(NEXT, access, user) == RAM + PAGE


def test_an_entry_holds_the_hosts_address_of_the_table(guest: Guest) -> None:
    """SDM Vol. 3C, 29.4.2: later changes of stage 2 for the guest's table have no effect until an INVEPT."""
    slot = guest.map(GVA, PAGE, KERNEL)
    guest.map(NEXT, PAGE, KERNEL)
    guest.translate(GVA, READ)
    table = slot - RAM & ~0xFFF
    guest.memory.store64(guest.ept_leaf(table), RAM | SPARE | 0x37)
    guest.memory.store64(RAM + SPARE + 8 * (NEXT >> 12 & 511), OTHER | KERNEL)
    guest.machine.tlb.guest_physical.clear()
    assert guest.translate(NEXT, READ) == RAM + PAGE
    guest.machine.tlb.combined.clear()
    guest.machine.tlb.invept(guest.vcpu.eptp)
    assert guest.translate(NEXT, READ) == RAM + OTHER


def test_what_is_not_cached(guest: Guest) -> None:
    """Leaves are not cached as tables, and a failing walk caches nothing."""
    guest.map(GVA, 0, KERNEL, level=2)
    guest.translate(GVA, READ)
    assert [key[3] for key in guest.machine.tlb.structures.combined] == [4, 3]
    guest.flush()
    guest.memory.store64(guest.entry(GVA, 2), 0)
    with pytest.raises(GuestFault):
        guest.translate(GVA, READ)
    assert not guest.machine.tlb.structures.combined


def test_the_accessed_flag_is_set_before_an_entry_is_cached(guest: Guest) -> None:
    guest.map(GVA, PAGE, KERNEL)
    slots = [guest.entry(GVA, level) for level in (4, 3, 2)]
    for slot in slots:
        guest.memory.store64(slot, guest.memory.load64(slot) & ~A)
    guest.translate(GVA, READ)
    assert len(guest.machine.tlb.structures.combined) == 3
    assert all(guest.memory.load64(slot) & A for slot in slots)


def test_entries_are_no_globals(guest: Guest) -> None:
    """A global translation survives MOV to CR3; the cached tables above it do not."""
    guest.vcpu.cr4 |= paging.CR4_PGE
    guest.map(GVA, PAGE, KERNEL | G)
    guest.translate(GVA, READ)
    guest.vcpu.mov_cr(3, guest.vcpu.cr3)
    assert len(guest.machine.tlb.combined) == 1
    assert not guest.machine.tlb.structures.combined


def test_references_that_count_as_writes_need_an_entry_that_allows_them(guest: Guest) -> None:
    """SDM Vol. 3C, 29.3.3.2: with accessed and dirty flags for EPT, the guest's tables must be writable."""
    slot = guest.map(GVA, PAGE, KERNEL)
    guest.map(NEXT, PAGE, KERNEL)
    table = slot - RAM & ~0xFFF
    guest.memory.store64(guest.ept_leaf(table), RAM | table | 0x31)
    guest.translate(GVA, READ)
    assert guest.translate(NEXT, READ) == RAM + PAGE
    guest.machine.tlb.combined.clear()
    guest.vcpu.eptp = ept.eptp_of(0x1000, accessed_dirty=True)
    with pytest.raises(EptViolation):
        guest.translate(NEXT, READ)


def test_a_flag_is_set_where_the_entry_was_read_or_not_at_all(guest: Guest) -> None:
    """The table has moved in stage 2: the compare and exchange fails, and the walk begins again."""
    guest.map(GVA, PAGE, KERNEL)
    slot = guest.map(NEXT, PAGE, P | RW)
    guest.translate(GVA, READ)
    table = slot - RAM & ~0xFFF
    guest.memory.store64(guest.ept_leaf(table), RAM | OTHER | 0x37)
    guest.machine.tlb.guest_physical.clear()
    moved = RAM + OTHER + (slot & 0xFFF)
    guest.memory.store64(moved, 0x7000 | P | RW)
    assert guest.translate(NEXT, WRITE) == RAM + 0x7000
    assert guest.memory.load64(slot) == PAGE | P | RW
    assert guest.memory.load64(moved) == 0x7000 | KERNEL


# ------------------------------------------------------- stage 2: stale entries


def moved_below(guest: Guest, level: int) -> None:
    """PAGE was accessed and OTHER was not; then the EPT entry of `level` references tables that map OTHER elsewhere."""
    mmu, store = guest.machine.mmu, guest.memory.store64
    mmu.translate_gpa(guest.vcpu.eptp, PAGE, READ)
    cached = guest.machine.tlb.structures.guest_physical
    for key in [key for key in cached if key[1] < level]:
        del cached[key]
    store(0x10_0000, 0x10_1000 | 7)
    store(0x10_1000, 0x10_2000 | 7)
    store(0x10_2000 + 8 * (OTHER >> 12), RAM + PAGE | 0x37)
    store({2: 0x3000, 3: 0x2000, 4: 0x1000}[level], {2: 0x10_2000, 3: 0x10_1000, 4: 0x10_0000}[level] | 7)


@pytest.mark.parametrize(
    ("act", "drops"),
    [
        (lambda guest: None, False),
        (lambda guest: guest.vcpu.invlpg(GVA), False),
        (lambda guest: guest.vcpu.mov_cr(3, guest.vcpu.cr3), False),
        (lambda guest: guest.vcpu.invpcid(InvpcidKind.ALL_GLOBAL, 0), False),
        (lambda guest: guest.machine.tlb.invvpid(InvvpidKind.ALL), False),
        (leave_and_enter, False),
        (enter_without_vpid, False),
        (lambda guest: guest.machine.tlb.invept(ept.eptp_of(0x9000)), False),
        (lambda guest: guest.machine.tlb.invept(guest.vcpu.eptp), True),
        (lambda guest: guest.machine.tlb.invept(None), True),
    ],
)
@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_stale_entry_of_the_ept_is_used_until_invept(
    guest: Guest, level: int, act: Callable[[Guest], None], drops: bool
) -> None:
    moved_below(guest, level)
    act(guest)
    hpa = guest.machine.mmu.translate_gpa(guest.vcpu.eptp, OTHER, READ)
    assert hpa == RAM + (PAGE if drops else OTHER)


def test_a_violation_drops_the_ept_tables_on_its_way(guest: Guest) -> None:
    moved_below(guest, 2)
    guest.memory.store64(guest.ept_leaf(OTHER), 0)
    translate = guest.machine.mmu.translate_gpa
    with pytest.raises(EptViolation):
        translate(guest.vcpu.eptp, OTHER, READ)
    assert translate(guest.vcpu.eptp, OTHER, READ) == RAM + PAGE


@pytest.mark.parametrize("place", [0x1000, 0x2000, 0x3000])
@pytest.mark.parametrize("access", [READ, WRITE, EXEC])
def test_rights_of_cached_ept_entries_count(guest: Guest, place: int, access: int) -> None:
    translate = guest.machine.mmu.translate_gpa
    entry = guest.memory.load64(place)
    allowed = {READ: 4, WRITE: 1, EXEC: 3}[access]
    guest.memory.store64(place, entry & ~7 | allowed)
    translate(guest.vcpu.eptp, PAGE, allowed & -allowed)
    guest.memory.store64(place, entry)
    with pytest.raises(EptViolation):
        translate(guest.vcpu.eptp, OTHER, access)
    assert translate(guest.vcpu.eptp, OTHER, access) == RAM + OTHER


def test_a_large_leaf_of_the_ept_is_no_table(guest: Guest) -> None:
    guest.memory.store64(0x3000, RAM | ept.LARGE | 0x37)
    guest.machine.mmu.translate_gpa(guest.vcpu.eptp, PAGE, READ)
    assert [key[1] for key in guest.machine.tlb.structures.guest_physical] == [4, 3]


def test_a_misconfigured_ept_leaves_nothing(guest: Guest) -> None:
    guest.memory.store64(guest.ept_leaf(PAGE), RAM | PAGE | 0x32)
    with pytest.raises(EptMisconfiguration):
        guest.machine.mmu.translate_gpa(guest.vcpu.eptp, PAGE, READ)
    assert not guest.machine.tlb.structures.guest_physical
