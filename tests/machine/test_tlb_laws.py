"""Laws of the TLB over random histories (SDM Vol. 3A, 4.10.4; Vol. 3C, 29.4.3): one entry changes, in either stage.

Until the right invalidation, an access ends as the old tables or as the new ones say; after it, as the new ones say.
What "say" means is told by a walker that has no caches, and that shares nothing with the one under test.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.abi.boot import DIRECT_MAP, USER_BASE, argument_page
from hvfuzz.machine.addresses import PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.cpu import VCpu
from hvfuzz.machine.ept import ADDRESS
from hvfuzz.machine.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.tlb import InvpcidKind
from hvfuzz.oracles.walk import guest_virtual
from hvfuzz.targets.emulated import EmulatedTarget, System

PAGES = (DIRECT_MAP + 0x40000, DIRECT_MAP + 0x41000, DIRECT_MAP + 0x60000, USER_BASE, argument_page(0))
ACCESSES = st.tuples(st.sampled_from(PAGES), st.sampled_from([0, 8, 0xFF8]), st.sampled_from([READ, WRITE]))
STAGE_1_BITS = st.sampled_from([1 << bit for bit in (0, 1, 2, 5, 6, 12, 13, 40, 51, 63)])
STAGE_2_BITS = st.sampled_from([1 << bit for bit in (0, 1, 2, 5, 12, 13, 40, 51)])
CAPACITIES = st.sampled_from([0, 1, 2, 3, 5, 64])


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with EmulatedTarget(oracles=frozenset()) as target:
        yield target.system(0)


def access(vcpu: VCpu, gva: int, kind: int) -> int | None:
    """What a supervisor's access reaches through the caches; None if it is refused."""
    try:
        return vcpu.mmu.translate(vcpu, gva, kind, False, False)
    except (GuestFault, EptViolation, EptMisconfiguration):
        return None


def fresh(vcpu: VCpu, gva: int, kind: int) -> int | None:
    """What the tables in memory say."""
    return guest_virtual(vcpu.memory, vcpu, gva, kind)


def stage_1_entry(vcpu: VCpu, gva: int, level: int) -> int | None:
    """Host physical address of the guest's entry for `gva`; the tables lie where the direct map shows them."""
    table = vcpu.cr3 & ADDRESS
    for step in range(4, level, -1):
        place = fresh(vcpu, DIRECT_MAP + table + 8 * (gva >> PAGE_SHIFT + 9 * (step - 1) & 511), READ)
        assert place is not None
        table = vcpu.memory.load64(place) & ADDRESS
    return fresh(vcpu, DIRECT_MAP + table + 8 * (gva >> PAGE_SHIFT + 9 * (level - 1) & 511), READ)


def stage_2_entry(vcpu: VCpu, hpa: int) -> int:
    """Host physical address of the leaf that maps the frame of `hpa`, in the one table of leaves there is."""
    table = vcpu.eptp & ADDRESS
    for _ in range(3):
        table = vcpu.memory.load64(table) & ADDRESS
    for at in range(table, table + 4096, 8):
        if vcpu.memory.load64(at) & ADDRESS == hpa & ADDRESS:
            return at
    raise AssertionError(f"no leaf maps {hpa:#x}")


def judge(
    system: System,
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
    old = {kind: fresh(vcpu, page, kind) for kind in (READ, WRITE)}
    place, entry = change(vcpu)
    vcpu.memory.store64(place, entry)
    for kind in kinds:
        new = fresh(vcpu, page, kind)
        found = access(vcpu, page, kind)
        assert found in {old[kind], new}, "neither the old tables nor the new ones"
        if capacity == 0:
            assert found == new
    invalidate(vcpu, page)
    for kind in kinds:
        assert fresh(vcpu, page, kind) == access(vcpu, page, kind), "stale after the right invalidation"


HISTORY = st.lists(ACCESSES, max_size=8)
KINDS = st.lists(st.sampled_from([READ, WRITE]), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(
    before=HISTORY,
    capacity=CAPACITIES,
    page=st.sampled_from(PAGES),
    level=st.integers(1, 4),
    bit=STAGE_1_BITS,
    kinds=KINDS,
    by=st.sampled_from(["invlpg", "single", "all", "vpid"]),
)
def test_an_entry_of_the_guests_tables(
    system: System,
    before: list[tuple[int, int, int]],
    capacity: int,
    page: int,
    level: int,
    bit: int,
    kinds: list[int],
    by: str,
) -> None:
    def change(vcpu: VCpu) -> tuple[int, int]:
        place = stage_1_entry(vcpu, page, level)
        assert place is not None
        return place, vcpu.memory.load64(place) ^ bit

    def invalidate(vcpu: VCpu, gva: int) -> None:
        tlb = vcpu.machine.tlb
        match by:
            case "invlpg":
                tlb.invlpg(vcpu.vpid, vcpu.pcid(), gva)
            case "single":
                tlb.invpcid(InvpcidKind.SINGLE, vcpu.vpid, vcpu.pcid())
            case "all":
                tlb.invpcid(InvpcidKind.ALL_GLOBAL, vcpu.vpid)
            case _:
                tlb.flush_vpid(vcpu.vpid)

    judge(system, before, capacity, change, invalidate, page, kinds)


@settings(max_examples=300, deadline=None)
@given(
    before=HISTORY,
    capacity=CAPACITIES,
    page=st.sampled_from(PAGES),
    level=st.integers(0, 4),
    bit=STAGE_2_BITS,
    kinds=KINDS,
    everything=st.booleans(),
)
def test_a_leaf_of_the_second_stage(
    system: System,
    before: list[tuple[int, int, int]],
    capacity: int,
    page: int,
    level: int,
    bit: int,
    kinds: list[int],
    everything: bool,
) -> None:
    """Of the page itself (level 0), or of one of the guest's tables on the way."""

    def change(vcpu: VCpu) -> tuple[int, int]:
        hpa = stage_1_entry(vcpu, page, level) if level else fresh(vcpu, page, READ)
        assert hpa is not None
        place = stage_2_entry(vcpu, hpa)
        return place, vcpu.memory.load64(place) ^ bit

    def invalidate(vcpu: VCpu, _gva: int) -> None:
        vcpu.machine.tlb.invept(None if everything else vcpu.eptp)

    judge(system, before, capacity, change, invalidate, page, kinds)
