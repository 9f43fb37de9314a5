"""Stage 2, bit by bit: rights, misconfigurations, exit qualification, accessed and dirty (SDM Vol. 3C, 29.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvfuzz.machine.addresses import EXEC, READ, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, VmEntryFailure
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.mmu import ept, paging

if TYPE_CHECKING:
    from tests.machine.conftest import Guest

RAM = 4 << 20
GVA = 0x7F12_3456_7000
PAGE = 0x5000
ROOTS = {4: 0x1000, 3: 0x2000, 2: 0x3000, 1: 0x4000}
"""Hpa of the EPT table of each level, as the fixture builds it: Gpa 0 is entry 0 of the upper three."""
LINEAR, FINAL = ept.Qualification.LINEAR_VALID, ept.Qualification.FINAL


def slot_of(level: int) -> int:
    return ROOTS[level] + (8 * (PAGE >> 12) if level == 1 else 0)


def edit(guest: Guest, level: int, entry: int) -> None:
    guest.memory.store64(slot_of(level), entry)


def outcome(guest: Guest, access: int, gpa: int = PAGE) -> str:
    """The outcome of an access by Gpa, as text; it must be the same with a warm TLB."""
    results = []
    raised: list[tuple[int, int | None]] = []
    for _ in range(2):
        try:
            guest.machine.mmu.translate_gpa(guest.vcpu.eptp, gpa, access)
            results.append("ok")
        except EptViolation as violation:
            raised.append((violation.gpa, violation.gva))
            results.append(f"violation {violation.qualification:#x}")
        except EptMisconfiguration as misconfiguration:
            raised.append((misconfiguration.gpa, None))
            results.append("misconfiguration")
    assert results[0] == results[1]
    assert raised == [(gpa, None)] * (0 if results[0] == "ok" else 2)
    return results[0]


@pytest.mark.parametrize("access", [READ, WRITE, EXEC, READ | WRITE])
@pytest.mark.parametrize("rights", range(8))
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_rights_of_every_level(guest: Guest, level: int, rights: int, access: int) -> None:
    entry = guest.memory.load64(slot_of(level))
    edit(guest, level, entry & ~7 | rights)
    if rights in (2, 6):
        assert outcome(guest, access) == "misconfiguration"
    elif rights & access == access:
        assert outcome(guest, access) == "ok"
    else:
        assert outcome(guest, access) == f"violation {access | rights << 3:#x}"


def test_the_qualification_gives_the_rights_of_all_levels_together(guest: Guest) -> None:
    edit(guest, 3, guest.memory.load64(slot_of(3)) & ~WRITE)
    edit(guest, 2, guest.memory.load64(slot_of(2)) & ~EXEC)
    assert outcome(guest, WRITE) == f"violation {WRITE | READ << 3:#x}"


def leaf_at(guest: Guest, level: int, bits: int = 0) -> None:
    """Map Gpa 0 onwards by one leaf of `level`."""
    base = RAM + PAGE if level == 1 else RAM & ~((1 << 30) - 1) if level == 3 else RAM
    edit(guest, level, base | 0x37 | (ept.LARGE if level > 1 else 0) | bits)


@pytest.mark.parametrize(("level", "expected"), [(1, RAM + PAGE), (2, RAM + PAGE), (3, PAGE)])
def test_page_sizes(guest: Guest, level: int, expected: int) -> None:
    leaf_at(guest, level)
    translate = guest.machine.mmu.translate_gpa
    assert translate(guest.vcpu.eptp, PAGE | 0x123, WRITE) == expected | 0x123
    assert translate(guest.vcpu.eptp, PAGE | 0x456, WRITE) == expected | 0x456


def reserved() -> list[tuple[int, bool, int]]:
    """(level, leaf, bit) for every bit that misconfigures an entry."""
    cases = [(4, False, bit) for bit in (3, 4, 5, 6, 7)]
    cases += [(level, False, bit) for level in (3, 2) for bit in (3, 4, 5, 6)]
    cases += [(3, True, bit) for bit in range(12, 30)] + [(2, True, bit) for bit in range(12, 21)]
    cases += [
        (level, leaf, bit)
        for level, leaf in ((4, False), (3, False), (2, False), (3, True), (2, True), (1, True))
        for bit in range(40, 52)
    ]
    return cases


@pytest.mark.parametrize(("level", "leaf", "bit"), reserved())
def test_reserved_bits_misconfigure(guest: Guest, level: int, leaf: bool, bit: int) -> None:
    if leaf:
        leaf_at(guest, level, 1 << bit)
    else:
        edit(guest, level, guest.memory.load64(slot_of(level)) | 1 << bit)
    assert outcome(guest, READ) == "misconfiguration"
    # An entry without rights is not present; its other bits are ignored.
    edit(guest, level, guest.memory.load64(slot_of(level)) & ~7)
    assert outcome(guest, READ) == "violation 0x1"


@pytest.mark.parametrize("kind", range(8))
@pytest.mark.parametrize("level", [1, 2, 3])
def test_memory_types(guest: Guest, level: int, kind: int) -> None:
    leaf_at(guest, level)
    edit(guest, level, guest.memory.load64(slot_of(level)) & ~ept.MEMORY_TYPE | kind << ept.MEMORY_TYPE_SHIFT)
    assert outcome(guest, READ) == ("misconfiguration" if kind in (2, 3, 7) else "ok")


@pytest.mark.parametrize("bit", [6, 7, 8, 9, 10, 11, *range(52, 64)])
def test_ignored_bits_of_a_4k_leaf(guest: Guest, bit: int) -> None:
    leaf_at(guest, 1, 1 << bit)
    assert outcome(guest, WRITE) == "ok"


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize("bit", [8, 9, 10, 11, *range(52, 64)])
def test_ignored_bits_of_a_table_entry(guest: Guest, level: int, bit: int) -> None:
    edit(guest, level, guest.memory.load64(slot_of(level)) | 1 << bit)
    assert outcome(guest, WRITE) == "ok"


def test_misconfiguration_before_lack_of_rights_and_after_not_present(guest: Guest) -> None:
    edit(guest, 3, guest.memory.load64(slot_of(3)) & ~WRITE)
    edit(guest, 1, RAM | 0x17)
    assert outcome(guest, WRITE) == "misconfiguration"
    edit(guest, 3, 0x3000)
    assert outcome(guest, WRITE) == "violation 0x2"


@pytest.mark.parametrize("gpa", [1 << 48, 1 << 51, (1 << 48) - 4096])
def test_nothing_is_mapped_at_the_end(guest: Guest, gpa: int) -> None:
    assert outcome(guest, READ, gpa) == "violation 0x1"


def test_tables_beyond_memory_read_as_ones(guest: Guest) -> None:
    edit(guest, 3, 0xFF_0000_0000 | 7)
    assert outcome(guest, READ) == "misconfiguration"


# ------------------------------------------------- two-dimensional


def violation(guest: Guest, access: int) -> EptViolation:
    with pytest.raises(EptViolation) as raised:
        guest.translate(GVA, access)
    assert raised.value.gva == GVA
    return raised.value


@pytest.mark.parametrize("access", [READ, WRITE, EXEC])
def test_violation_by_the_page_itself(guest: Guest, access: int) -> None:
    guest.map(GVA, PAGE, paging.P | paging.RW)
    guest.memory.store64(guest.ept_leaf(PAGE), 0)
    raised = violation(guest, access)
    assert raised.gpa == PAGE
    assert raised.qualification == access | LINEAR | FINAL


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_violation_by_a_guest_table(guest: Guest, level: int) -> None:
    guest.map(GVA, PAGE, paging.P | paging.RW)
    slot = guest.entry(GVA, level)
    guest.memory.store64(guest.ept_leaf(slot - RAM), 0)
    raised = violation(guest, WRITE)
    assert raised.gpa == slot - RAM
    assert raised.qualification == READ | LINEAR


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_setting_a_flag_in_a_guest_table_is_a_write(guest: Guest, level: int) -> None:
    guest.map(GVA, PAGE, paging.P | paging.RW | paging.A)
    slot = guest.entry(GVA, level)
    leaf = guest.ept_leaf(slot - RAM)
    guest.memory.store64(leaf, guest.memory.load64(leaf) & ~(WRITE | EXEC))
    guest.translate(GVA, READ)
    guest.flush()
    guest.memory.store64(slot, guest.memory.load64(slot) & ~paging.A)
    raised = violation(guest, READ)
    assert raised.gpa == slot - RAM
    assert raised.qualification == WRITE | READ << 3 | LINEAR
    assert not guest.memory.load64(slot) & paging.A


def test_a_table_need_not_be_executable(guest: Guest) -> None:
    guest.map(GVA, PAGE, paging.P | paging.RW)
    for level in (4, 3, 2, 1):
        leaf = guest.ept_leaf(guest.entry(GVA, level) - RAM)
        guest.memory.store64(leaf, guest.memory.load64(leaf) & ~EXEC)
    assert guest.translate(GVA, EXEC) == RAM + PAGE


@pytest.mark.parametrize("first", [paging.P, paging.P | paging.RW, paging.P | paging.NX])
@pytest.mark.parametrize("second", [1, 3, 4, 5, 7])
def test_both_stages_must_agree(guest: Guest, first: int, second: int) -> None:
    guest.map(GVA, PAGE, first)
    guest.memory.store64(guest.ept_leaf(PAGE), RAM + PAGE | 0x30 | second)
    allowed = READ | (WRITE if first & paging.RW else 0) | (0 if first & paging.NX else EXEC)
    for access in (READ, WRITE, EXEC):
        for _ in range(2):
            passed = True
            try:
                guest.translate(GVA, access)
            except (GuestFault, EptViolation):
                passed = False
            assert passed == bool(access & allowed & second)
            for entry in guest.machine.tlb.combined.values():
                assert entry[1] & ~(allowed & second) == 0


# ------------------------------------------------- EPT accessed and dirty flags


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("access", [READ, WRITE, EXEC])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_accessed_and_dirty(guest: Guest, level: int, access: int, enabled: bool) -> None:
    leaf_at(guest, level)
    eptp = ept.eptp_of(0x1000, accessed_dirty=enabled)
    guest.machine.mmu.translate_gpa(eptp, PAGE, access)
    for table in range(level, 5):
        entry = guest.memory.load64(slot_of(table))
        assert bool(entry & ept.ACCESSED) == enabled
        assert bool(entry & ept.DIRTY) == (enabled and table == level and access == WRITE)


def test_the_first_write_after_a_read_sets_dirty(guest: Guest) -> None:
    eptp = ept.eptp_of(0x1000, accessed_dirty=True)
    guest.machine.mmu.translate_gpa(eptp, PAGE, READ)
    guest.machine.mmu.translate_gpa(eptp, PAGE, WRITE)
    assert guest.memory.load64(slot_of(1)) & ept.DIRTY


def test_a_refused_access_sets_nothing(guest: Guest) -> None:
    edit(guest, 1, RAM + PAGE | 0x31)
    with pytest.raises(EptViolation):
        guest.machine.mmu.translate_gpa(ept.eptp_of(0x1000, accessed_dirty=True), PAGE, WRITE)
    assert not guest.memory.load64(slot_of(1)) & (ept.ACCESSED | ept.DIRTY)
    assert not guest.memory.load64(slot_of(4)) & ept.ACCESSED


def test_with_the_flags_enabled_a_guest_table_reference_is_a_write(guest: Guest) -> None:
    guest.map(GVA, PAGE, paging.P | paging.RW | paging.A)
    guest.vcpu.eptp = ept.eptp_of(0x1000, accessed_dirty=True)
    slot = guest.entry(GVA, 2)
    leaf = guest.ept_leaf(slot - RAM)
    entry = guest.memory.load64(leaf)
    guest.memory.store64(leaf, entry & ~WRITE)
    raised = violation(guest, READ)
    assert raised.qualification == READ | WRITE | (READ | EXEC) << 3 | LINEAR
    guest.memory.store64(leaf, entry)
    guest.translate(GVA, READ)
    assert guest.memory.load64(leaf) & ept.DIRTY
    assert not guest.memory.load64(guest.ept_leaf(PAGE)) & ept.DIRTY


# ------------------------------------------------- the EPT pointer


@pytest.mark.parametrize("kind", range(8))
@pytest.mark.parametrize("length", range(8))
def test_eptp_memory_type_and_walk_length(kind: int, length: int) -> None:
    assert ept.is_valid_eptp(0x1000 | length << 3 | kind) == (kind in (0, 6) and length == 3)


@pytest.mark.parametrize("bit", range(6, 64))
def test_eptp_bits(bit: int) -> None:
    assert ept.is_valid_eptp(0x1E | 1 << bit) == (bit == 6 or 12 <= bit < 40)


@pytest.mark.parametrize(("eptp", "enters"), [(0x101E, True), (0x105E, True), (0x1018, True), (0x1016, False)])
def test_vm_entry_checks_the_eptp_that_the_handler_leaves(guest: Guest, eptp: int, enters: bool) -> None:
    def switch(vcpu: VCpu) -> None:
        vcpu.eptp = eptp
        vcpu.vmcs.saved[Reg.RAX] = 5

    guest.machine.exit_handler = switch
    if enters:
        guest.vcpu.vmcall()
    else:
        with pytest.raises(VmEntryFailure) as failure:
            guest.vcpu.vmcall()
        assert failure.value.error == 7
    assert guest.vcpu.regs[Reg.RAX] == (5 if enters else 0)
