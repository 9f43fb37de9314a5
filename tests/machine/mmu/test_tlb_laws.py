"""Laws of the TLB over random histories (SDM Vol. 3A, 4.10.4; Vol. 3C, 29.4.3): one entry changes, in either stage.

After the right invalidation an access ends as the new tables say. Until then it ends as one of these say, and no other:

- the old tables, all of them (a translation was cached), or the new ones, all of them (nothing was);
- the old tables down to some level, rights and all, and from the table that these named on the present content of what
  is below (a paging-structure entry was cached, or not yet dropped);
- for a change of stage 2, also the new ones down to some level, and below it the old ones (a mapping of a Gpa was).

A fault drops what it came from: after one that stage 1 caused, the same access ends as the new tables say. What "say"
means is told by a walker that has no caches, and that shares nothing with the one under test.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.abi.boot import DIRECT_MAP, USER_BASE, argument_page
from hvfuzz.machine.addresses import PAGE_SHIFT, PHYSICAL_RESERVED, READ, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.cpu.instructions.control_registers import current_pcid
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.mmu import paging
from hvfuzz.machine.mmu.ept import ADDRESS
from hvfuzz.machine.mmu.paging_cache import SHIFTS, CombinedTable
from hvfuzz.machine.mmu.tlb import InvpcidKind, InvvpidKind
from hvfuzz.oracles.shadow.guest_walk import guest_virtual
from hvfuzz.oracles.shadow.stage2_walk import guest_physical
from hvfuzz.targets.emulated.booted_system import System
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

PAGES = (DIRECT_MAP + 0x40000, DIRECT_MAP + 0x41000, DIRECT_MAP + 0x60000, USER_BASE, argument_page(0))
ACCESSES = st.tuples(st.sampled_from(PAGES), st.sampled_from([0, 8, 0xFF8]), st.sampled_from([READ, WRITE]))
# Several changes at once: an entry is used as a whole, its address with its rights.
STAGE_1_BITS = st.lists(
    st.sampled_from([1 << bit for bit in (0, 1, 2, 5, 6, 12, 13, 14, 40, 51, 63)]), min_size=1, max_size=3
)
STAGE_2_BITS = st.lists(st.sampled_from([1 << bit for bit in (0, 1, 2, 5, 12, 13, 40, 51)]), min_size=1, max_size=3)
CAPACITIES = st.sampled_from([0, 1, 2, 3, 5, 64])


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with EmulatedTarget(oracles=frozenset()) as target:
        yield target.system(0)


def access(vcpu: VCpu, gva: int, kind: int) -> int | None:
    """The Hpa that a supervisor access reaches through the caches; None if it faults."""
    try:
        return vcpu.mmu.translate(vcpu, gva, kind, False, False)
    except (GuestFault, EptViolation, EptMisconfiguration):
        return None


def fresh(vcpu: VCpu, gva: int, kind: int) -> int | None:
    """The Hpa by the tables in memory."""
    return guest_virtual(vcpu.memory, vcpu, gva, kind)


def stage_1_entry(vcpu: VCpu, gva: int, level: int) -> int | None:
    """Hpa of the guest's entry for `gva`; the tables are in the direct map."""
    table = vcpu.cr3 & ADDRESS
    for step in range(4, level, -1):
        place = fresh(vcpu, DIRECT_MAP + table + 8 * (gva >> PAGE_SHIFT + 9 * (step - 1) & 511), READ)
        assert place is not None
        table = vcpu.memory.load64(place) & ADDRESS
    return fresh(vcpu, DIRECT_MAP + table + 8 * (gva >> PAGE_SHIFT + 9 * (level - 1) & 511), READ)


def stage_2_entry(vcpu: VCpu, hpa: int) -> int:
    """Hpa of the leaf that maps the frame of `hpa`, in the only table of leaves."""
    table = vcpu.eptp & ADDRESS
    for _ in range(3):
        table = vcpu.memory.load64(table) & ADDRESS
    for at in range(table, table + 4096, 8):
        if vcpu.memory.load64(at) & ADDRESS == hpa & ADDRESS:
            return at
    raise AssertionError(f"no leaf maps {hpa:#x}")


def upper(vcpu: VCpu, gva: int, level: int) -> CombinedTable | None:
    """What a paging-structure entry of `level` would hold if it were cached now; None if it cannot be cached."""
    table, above = vcpu.cr3 & ADDRESS, paging.RW | paging.US
    for step in range(4, level - 1, -1):
        place = guest_physical(vcpu.memory, vcpu.eptp, table | (gva >> SHIFTS[step] & 511) << 3, READ)
        entry = vcpu.memory.load64(place) if place is not None and place < vcpu.memory.size else 0
        if not entry & paging.P or entry & (PHYSICAL_RESERVED | paging.PS):
            return None
        table, above = entry & ADDRESS, above & entry
    hpa = guest_physical(vcpu.memory, vcpu.eptp, table, READ)
    return None if hpa is None else (hpa, table, READ, above, 0, level)


def permitted(vcpu: VCpu, gva: int, kind: int, place: int, old: int, stage: int) -> set[int | None]:
    """All permitted outcomes of an access after the entry at `place`, which was `old`, has been changed."""
    memory = vcpu.memory
    new = memory.load64(place)
    ends = {fresh(vcpu, gva, kind)}
    memory.store64(place, old)
    ends.add(fresh(vcpu, gva, kind))
    befores = [upper(vcpu, gva, level) for level in (4, 3, 2)]
    memory.store64(place, new)
    afters = [upper(vcpu, gva, level) for level in (4, 3, 2)]
    ends |= {guest_virtual(memory, vcpu, gva, kind, below=below) for below in befores if below is not None}
    if stage == 2:
        memory.store64(place, old)
        ends |= {guest_virtual(memory, vcpu, gva, kind, below=below) for below in afters if below is not None}
        memory.store64(place, new)
    return ends


def judge(
    system: System,
    stage: int,
    before: list[tuple[int, int, int]],
    capacity: int,
    change: Callable[[VCpu], tuple[int, int]],
    invalidate: Callable[[VCpu, int], None],
    page: int,
    kinds: list[int],
) -> None:
    system.restore()
    vcpu = system.machine.vcpus[1]
    system.machine.tlb.set_capacity(capacity)
    for base, offset, kind in before:
        access(vcpu, base + offset, kind)
    place, entry = change(vcpu)
    old = vcpu.memory.load64(place)
    flags = paging.A | paging.D if stage == 1 else 0
    vcpu.memory.store64(place, entry)
    for kind in kinds:
        new = fresh(vcpu, page, kind)
        ends = permitted(vcpu, page, kind, place, old | vcpu.memory.load64(place) & flags, stage)
        found = access(vcpu, page, kind)
        assert found in ends, "neither the old tables, nor the new ones, nor what the manual makes of both"
        if capacity == 0 or (found is None and stage == 1):
            assert access(vcpu, page, kind) == new, "a fault that came of what was cached comes again"
    invalidate(vcpu, page)
    for kind in kinds:
        assert fresh(vcpu, page, kind) == access(vcpu, page, kind), "stale after the right invalidation"


def flipped(vcpu: VCpu, place: int, bits: list[int]) -> int:
    """The entry at `place` with these bits inverted."""
    entry = vcpu.memory.load64(place)
    for bit in set(bits):
        entry ^= bit
    return entry


HISTORY = st.lists(ACCESSES, max_size=8)
KINDS = st.lists(st.sampled_from([READ, WRITE]), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    before=HISTORY,
    capacity=CAPACITIES,
    page=st.sampled_from(PAGES),
    level=st.integers(1, 4),
    bits=STAGE_1_BITS,
    kinds=KINDS,
    by=st.sampled_from(
        ["invlpg", "address", "single", "all", "vpid", *InvvpidKind],
    ),
)
def test_an_entry_of_the_guests_tables(
    system: System,
    before: list[tuple[int, int, int]],
    capacity: int,
    page: int,
    level: int,
    bits: list[int],
    kinds: list[int],
    by: str | InvvpidKind,
) -> None:
    def change(vcpu: VCpu) -> tuple[int, int]:
        place = stage_1_entry(vcpu, page, level)
        assert place is not None
        return place, flipped(vcpu, place, bits)

    def invalidate(vcpu: VCpu, gva: int) -> None:
        tlb = vcpu.machine.tlb
        match by:
            case InvvpidKind():
                tlb.invvpid(by, vcpu.vpid, gva)
            case "address":
                tlb.invpcid(InvpcidKind.ADDRESS, vcpu.vpid, current_pcid(vcpu), gva)
            case "invlpg":
                tlb.invlpg(vcpu.vpid, current_pcid(vcpu), gva)
            case "single":
                tlb.invpcid(InvpcidKind.SINGLE, vcpu.vpid, current_pcid(vcpu))
            case "all":
                tlb.invpcid(InvpcidKind.ALL_GLOBAL, vcpu.vpid)
            case _:
                tlb.flush_vpid(vcpu.vpid)

    judge(system, 1, before, capacity, change, invalidate, page, kinds)


@settings(max_examples=150, deadline=None)
@given(
    before=HISTORY,
    capacity=CAPACITIES,
    page=st.sampled_from(PAGES),
    level=st.integers(0, 4),
    bits=STAGE_2_BITS,
    kinds=KINDS,
    everything=st.booleans(),
)
def test_a_leaf_of_the_second_stage(
    system: System,
    before: list[tuple[int, int, int]],
    capacity: int,
    page: int,
    level: int,
    bits: list[int],
    kinds: list[int],
    everything: bool,
) -> None:
    """Of the page itself (level 0), or of one of the guest's tables on the way."""

    def change(vcpu: VCpu) -> tuple[int, int]:
        hpa = stage_1_entry(vcpu, page, level) if level else fresh(vcpu, page, READ)
        assert hpa is not None
        place = stage_2_entry(vcpu, hpa)
        return place, flipped(vcpu, place, bits)

    def invalidate(vcpu: VCpu, _gva: int) -> None:
        vcpu.machine.tlb.invept(None if everything else vcpu.eptp)

    judge(system, 2, before, capacity, change, invalidate, page, kinds)
