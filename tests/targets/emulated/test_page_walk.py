"""A page walk reports what was read: each entry is in memory, and each leads to the next."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.abi.boot import DIRECT_MAP, MMIO_BASE, USER_BASE, argument_page
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.ept import ADDRESS, LARGE
from hvfuzz.machine.mmu.paging import A, P
from hvfuzz.oracles.shadow.guest_walk import guest_virtual
from hvfuzz.targets.emulated.booted_system import System
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.emulated.page_walk import FLAGS, LEVELS, Walk, walk

ADDRESSES = (
    DIRECT_MAP,
    DIRECT_MAP + 0x41008,
    DIRECT_MAP + 0x205010,
    DIRECT_MAP + MMIO_BASE,
    USER_BASE,
    USER_BASE + 0x1FF8,
    argument_page(0),
    0,
    0x7FFF_FFFF_F000,
    0xFFFF_FFFF_FFFF_F000,
)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with EmulatedTarget(oracles=frozenset()) as target:
        yield target.system(0)


def check(machine: Machine, done: Walk, eptp: int) -> None:
    """Compare a walk with the contents of memory."""
    words = machine.memory.words
    for leg in done.legs:
        structure = leg.structure
        assert (leg.cached or (structure is not None and structure.stage == 1)) != bool(leg.references)
        table, top = (structure.table, structure.level - 1) if structure is not None else (eptp & ADDRESS, 4)
        if structure is not None and structure.stage == 1:
            assert leg is done.legs[0]
            assert leg.hpa is not None
            assert (leg.level, leg.hpa & ~0xFFF) == (top, table)
        for number, reference in enumerate(leg.references):
            assert reference.level == top - number
            assert reference.table == table
            assert reference.slot == leg.gpa >> (12 + 9 * (reference.level - 1)) & 511
            table = reference.entry & ADDRESS
            if leg.hpa is not None:
                assert reference.entry | 0x300 == words[(reference.table >> 3) + reference.slot] | 0x300
        if leg.references and leg.hpa is not None:
            last = leg.references[-1]
            offset = (1 << 12 + 9 * (last.level - 1)) - 1
            assert last.level == 1 or last.entry & LARGE
            assert leg.hpa == last.entry & ADDRESS & ~offset | leg.gpa & offset
        if leg.entry is not None:
            assert leg.hpa is not None
            assert words[leg.hpa >> 3] | 0x60 == leg.entry | 0x60
    read = [leg for leg in done.legs if leg.entry is not None]
    if read:
        assert done.began == LEVELS[read[0].level]
        assert [leg.level for leg in read] == list(range(read[0].level, 0, -1))[: len(read)]
    for above, below in pairwise(read):
        assert above.entry is not None
        assert below.gpa & ~0xFFF == above.entry & ADDRESS


@settings(max_examples=200, deadline=None)
@given(
    number=st.integers(1, 4),
    gva=st.sampled_from(ADDRESSES),
    access=st.sampled_from("rwx"),
    user=st.booleans(),
    cold=st.booleans(),
)
def test_a_walk_agrees_with_memory(system: System, number: int, gva: int, access: str, user: bool, cold: bool) -> None:
    system.restore()
    vcpu = system.machine.vcpus[number]
    done = walk(vcpu, gva, access, user=user, cold=cold)
    check(system.machine, done, vcpu.eptp)
    assert system.machine.mmu.record is None
    if done.hpa is not None:
        assert done.hpa == guest_virtual(system.machine.memory, vcpu, gva, False)
        assert done.hit or done.legs[-1].level == 0
    if cold:
        assert done.hits == 0
        assert not system.machine.tlb.combined
        done = walk(vcpu, gva, access, user=user)
    if done.hpa is not None:
        assert walk(vcpu, gva, access, user=user).hit


def test_two_dimensions(system: System) -> None:
    """SDM Vol. 3C, 29.3: four levels of four, and four more for the page."""
    system.restore()
    vcpu = system.machine.vcpus[1]
    done = walk(vcpu, DIRECT_MAP + 0x41008, "r", cold=True)
    assert done.references == 24
    assert [leg.level for leg in done.legs] == [4, 3, 2, 1, 0]
    # A cold walk leaves no cache entries. A warm one begins stage 2 at a cached table, from its second leg on.
    warming = walk(vcpu, DIRECT_MAP + 0x41008, "r")
    assert (warming.references, warming.hits) == (12, 4)
    assert [leg.structure and leg.structure[:2] for leg in warming.legs] == [None, *[(2, 2)] * 4]
    again = walk(vcpu, DIRECT_MAP + 0x42008, "r")
    assert (again.references, again.hits, again.began) == (2, 2, "PTE")
    assert [leg.structure and leg.structure[:2] for leg in again.legs] == [(1, 2), (2, 2)]
    assert (walk(vcpu, DIRECT_MAP + 0x42010, "r").hit, vcpu.mmu.record) == (True, None)


def test_a_flag_that_is_written_has_a_leg(system: System) -> None:
    system.restore()
    vcpu, memory = system.machine.vcpus[1], system.machine.memory
    done = walk(vcpu, DIRECT_MAP + 0x41008, "r", cold=True)
    (leaf,) = (leg for leg in done.legs if leg.level == 1)
    assert leaf.hpa is not None
    assert leaf.entry is not None
    memory.store64(leaf.hpa, leaf.entry & ~A)
    done = walk(vcpu, DIRECT_MAP + 0x41008, "r", cold=True)
    assert [leg.level for leg in done.legs][-3:] == [1, FLAGS, 0]
    assert done.legs[-2].references == done.legs[-3].references
    assert memory.words[leaf.hpa >> 3] & A


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_a_missing_entry_ends_the_walk(system: System, level: int) -> None:
    """First stage 1 lacks an entry; then stage 2 lacks one for the guest table."""
    system.restore()
    vcpu, memory = system.machine.vcpus[1], system.machine.memory
    gva = DIRECT_MAP + 0x41008
    legs = {leg.level: leg for leg in walk(vcpu, gva, "r", cold=True).legs}
    place = legs[level].hpa
    assert place is not None
    memory.store64(place, memory.words[place >> 3] & ~P)
    done = walk(vcpu, gva, "r", cold=True)
    assert done.hpa is None
    assert done.outcome.startswith("the guest gets #PF")
    assert done.legs[-1].level == level
    system.restore()
    last = legs[level].references[-1]
    memory.store64(last.table + 8 * last.slot, 0)
    done = walk(vcpu, gva, "r", cold=True)
    assert done.hpa is None
    assert done.outcome.startswith("EPT violation")
    assert (done.legs[-1].level, done.legs[-1].hpa, done.legs[-1].gpa) == (level, None, legs[level].gpa)


def test_registers_of_a_device_are_not_memory(system: System) -> None:
    system.restore()
    done = walk(system.machine.vcpus[1], DIRECT_MAP + MMIO_BASE + 8, "w", cold=True)
    assert (done.hpa, done.legs[-1].level, done.legs[-1].gpa) == (None, 0, MMIO_BASE + 8)
