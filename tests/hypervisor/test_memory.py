"""The memory calls, as a guest makes them: each refusal in its order, each effect, and the books after any history."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hvfuzz.abi.boot import ARG_ARRAYS, DIRECT_MAP, WORLDS_BY_NAME, argument_page, direct_map
from hvfuzz.abi.limits import EXCHANGE, MAX_GFN
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import boot, guest_address
from hvfuzz.hypervisor.core.domains import Domain
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT, U64
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.vcpu import VCpu

Call = Callable[..., tuple[Status, int]]
Audit = Callable[[Hypervisor], None]
TOP = 0xFFFF_FFFF_FFFF_F000


class Guest:
    """Domain 1 of a fresh world, and its calls."""

    def __init__(self, hv: Hypervisor, guest_call: Callable[..., tuple[Status, int]], domain: int = 1) -> None:
        self.hv = hv
        self.domain: Domain = hv.domains[domain]
        self.vcpu: VCpu = self.domain.vcpus[0]
        self._call = guest_call

    def __call__(self, name: str, **fields: Any) -> tuple[Status, int]:
        return self._call(self.hv, self.vcpu, f"memory.{name}", **fields)

    def other(self, name: str, **fields: Any) -> tuple[Status, int]:
        return self._call(self.hv, self.vcpu, name, **fields)

    def frame(self, gfn: int) -> int:
        entry, level, _ = self.domain.stage2.lookup(gfn)
        return leaf_frame(entry, level, gfn) if entry & 7 else -1

    def exhaust_pool(self) -> None:
        iova = 0
        while self.domain.pool:
            # each 1 GiB of device addresses takes two tables, each 2 MiB in it one
            step = 1 << 30 if len(self.domain.pool) > 1 else 1 << 21
            status, _ = self.other("device.dma_map", iova=iova, gfn=5, count=1, rights=1)
            assert status is Status.OK
            iova += step


@pytest.fixture
def guest(hv: Hypervisor, guest_call: Call, audit: Audit) -> Iterator[Guest]:
    guest = Guest(hv, guest_call)
    yield guest
    audit(hv)


def refused(call: Callable[..., tuple[Status, int]], status: Status, name: str, **fields: Any) -> None:
    assert call(name, **fields) == (status, 0)


def test_populate_gives_zeroed_pages(guest: Guest) -> None:
    assert guest("populate", first=0x200, count=3, order=0) == (Status.OK, 3)
    for gfn in range(0x200, 0x203):
        assert guest.vcpu.load(direct_map(gfn << PAGE_SHIFT), 8) == 0
        guest.vcpu.store(direct_map(gfn << PAGE_SHIFT), 8, gfn)
        frame = guest.hv.frames.frame(guest.frame(gfn))
        assert (frame.owner, frame.state, frame.maps) == (1, FrameState.OWNED, 1)
    with pytest.raises(GuestFault):
        guest.vcpu.load(direct_map(0x203 << PAGE_SHIFT), 8)


def test_populate_gives_superpages(guest: Guest) -> None:
    pool = len(guest.domain.pool)
    assert guest("populate", first=0x400, count=2, order=9) == (Status.OK, 2)
    assert guest.domain.stage2.lookup(0x400)[1] == guest.domain.stage2.lookup(0x7FF)[1] == 2
    assert len(guest.domain.pool) == pool
    guest.vcpu.store(direct_map(0x7FF << PAGE_SHIFT), 8, 1)


def test_top_down_is_another_end_of_memory(guest: Guest) -> None:
    guest("populate", first=0x200, count=1, flags=1)
    guest("populate", first=0x201, count=1)
    assert guest.frame(0x200) == 4095
    assert guest.frame(0x201) < 2048


@pytest.mark.parametrize(
    "fields",
    [
        {"order": 1},
        {"order": 10},
        {"flags": 2},
        {"flags": 3},
        {"count": 0},
        {"count": 513},
        {"count": 0xFFFF_FFFF},
        {"order": 9, "count": 3},
        {"order": 9, "first": 0x201},
        {"first": MAX_GFN},
        {"first": MAX_GFN - 1, "count": 2},
        {"first": U64, "count": 1},
        {"first": 0x600, "order": 9, "count": 2},
    ],
)
def test_populate_refuses_bad_arguments(guest: Guest, fields: dict[str, int]) -> None:
    refused(guest, Status.INVALID, "populate", **{"first": 0x200, "count": 1, **fields})


def test_populate_refuses_what_is_there_and_what_there_is_too_little_of(guest: Guest) -> None:
    refused(guest, Status.EXISTS, "populate", first=255, count=2)
    refused(guest, Status.EXISTS, "populate", first=0, count=1, order=9)
    for first in (0x200, 0x400, 0x600):
        guest("populate", first=first, count=1, order=9)
    refused(guest, Status.EXISTS, "populate", first=0x3FF, count=1)
    other = Guest(guest.hv, guest._call, 2)
    assert other("populate", first=0x200, count=2, order=9) == (Status.OK, 2)
    assert other("populate", first=0x600, count=1, order=9) == (Status.OK, 1)
    refused(Guest(guest.hv, guest._call, 0), Status.NO_MEMORY, "populate", first=0x200, count=1, order=9)
    while guest.hv.allocator.available > 63:
        guest.hv.allocator.alloc_heap_page()
    refused(Guest(guest.hv, guest._call, 0), Status.NO_MEMORY, "populate", first=0x200, count=64)


def test_an_old_domain_has_no_populate_flags(guest_call: Call) -> None:
    hv = boot(WORLDS_BY_NAME["old"])
    old = Guest(hv, guest_call, 2)
    assert old("populate", first=0x200, count=1) == (Status.OK, 1)
    assert old("exchange", count=1)[0] is Status.NO_CALL


def test_an_empty_pool_is_said_before_anything_changes(guest: Guest) -> None:
    assert guest("populate", first=0x200, count=1, order=9) == (Status.OK, 1)
    guest.exhaust_pool()
    before = guest.hv.machine.memory.read(guest.hv.frames.base, 8 * guest.hv.frames.count)
    refused(guest, Status.NO_POOL, "populate", first=0x400, count=1)
    refused(guest, Status.NO_POOL, "decrease", first=0x300, count=1)
    refused(guest, Status.NO_POOL, "protect", first=0x300, count=1, rights=1)
    refused(guest, Status.NO_POOL, "exchange", gfns=(0x300,), out=(0,), count=1)
    assert guest.hv.machine.memory.read(guest.hv.frames.base, 8 * guest.hv.frames.count) == before
    # What needs no table page goes on.
    assert guest("protect", first=0x200, count=512, rights=1) == (Status.OK, 512)
    assert guest("protect", first=0x300, count=1, rights=1) == (Status.OK, 1)
    assert guest("decrease", first=0x200, count=512) == (Status.OK, 512)
    assert guest("decrease", first=0x90, count=1) == (Status.OK, 1)


def test_decrease_takes_pages_away_and_scrubs_them(guest: Guest) -> None:
    free, hfn = guest.hv.allocator.available, guest.frame(0x80)
    address = direct_map(0x80 << PAGE_SHIFT)
    guest.vcpu.store(address, 8, 0x5EC)
    assert guest("decrease", first=0x80, count=2) == (Status.OK, 2)
    with pytest.raises(GuestFault):
        guest.vcpu.load(address, 8)
    assert guest.hv.allocator.available == free + 2
    assert guest.hv.machine.memory.load64(hfn << PAGE_SHIFT) == 0


def test_decrease_of_a_superpage_whole_and_in_part(guest: Guest) -> None:
    guest("populate", first=0x400, count=2, order=9)
    free, pool = guest.hv.allocator.available, len(guest.domain.pool)
    assert guest("decrease", first=0x500, count=512) == (Status.OK, 512)  # the halves of both
    assert len(guest.domain.pool) == pool - 2
    assert guest.hv.allocator.available == free + 512
    assert guest("decrease", first=0x400, count=256) == (Status.OK, 256)
    assert guest("decrease", first=0x700, count=256) == (Status.OK, 256)
    assert len(guest.domain.pool) == pool
    guest("populate", first=0x400, count=1, order=9)
    assert guest("decrease", first=0x400, count=512) == (Status.OK, 512)


def test_decrease_refuses_in_the_order_of_the_pages(guest: Guest) -> None:
    refused(guest, Status.INVALID, "decrease", first=0, count=0)
    refused(guest, Status.INVALID, "decrease", first=0, count=513)
    refused(guest, Status.INVALID, "decrease", first=0x7FF, count=2)
    refused(guest, Status.NOT_PRESENT, "decrease", first=0xFE, count=4)
    guest.other("device.dma_map", iova=0, gfn=0x80, count=1, rights=1)
    refused(guest, Status.BUSY, "decrease", first=0x7F, count=512)  # before the absent ones are reached
    guest.other("device.dma_unmap", iova=0, count=1)
    assert guest.other("grant.create", gfn=0x80, to=2, rights=1)[0] is Status.OK
    refused(guest, Status.BUSY, "decrease", first=0x80, count=1)
    other = Guest(guest.hv, guest._call, 2)
    _, handle = other.other("grant.map", granter=1, ref=0, gfn=0x300, flags=1 | 4)
    refused(other, Status.NOT_OWNER, "decrease", first=0x300, count=1)
    refused(other, Status.NOT_OWNER, "protect", first=0x300, count=1, rights=1)
    refused(other, Status.NOT_OWNER, "exchange", gfns=(0x300,), out=(0,), count=1)
    refused(guest, Status.BUSY, "exchange", gfns=(0x80,), out=(0,), count=1)
    other.other("grant.unmap", handle=handle, count=1, flags=1)
    guest.other("grant.revoke", ref=0)
    assert guest("decrease", first=0x80, count=1) == (Status.OK, 1)


def test_protect_sets_rights_and_flushes(guest: Guest) -> None:
    address = direct_map(0x80 << PAGE_SHIFT)
    guest.vcpu.store(address, 8, 1)
    assert guest("protect", first=0x7F, count=3, rights=5) == (Status.OK, 3)
    with pytest.raises(GuestFault):
        guest.vcpu.store(address, 8, 2)
    assert guest.vcpu.load(address, 8) == 1
    guest.vcpu.execute(address)
    guest("protect", first=0x80, count=1, rights=3)
    guest.vcpu.store(address, 8, 2)
    with pytest.raises(GuestFault):
        guest.vcpu.execute(address)


@pytest.mark.parametrize("rights", [0, 2, 4, 6, 8, 15])
def test_protect_refuses_other_rights(guest: Guest, rights: int) -> None:
    refused(guest, Status.INVALID, "protect", first=0, count=1, rights=rights)


def test_protect_splits_and_merges(guest: Guest) -> None:
    guest("populate", first=0x200, count=1, order=9)
    pool = len(guest.domain.pool)
    assert guest("protect", first=0x240, count=0x100, rights=1) == (Status.OK, 0x100)
    assert len(guest.domain.pool) == pool - 1
    refused(guest, Status.NOT_PRESENT, "protect", first=0x3C0, count=0x80, rights=7)
    assert guest("protect", first=0x220, count=0x180, rights=7) == (Status.OK, 0x180)
    assert guest.domain.stage2.lookup(0x200)[1] == 2
    assert len(guest.domain.pool) == pool


def test_exchange_swaps_frames_and_says_which(guest: Guest) -> None:
    old = [guest.frame(gfn) for gfn in (0x80, 0x82)]
    guest("protect", first=0x82, count=1, rights=1)
    guest.vcpu.store(direct_map(0x80 << PAGE_SHIFT), 8, 1)
    status, result = guest("exchange", gfns=(0x80, 0x82), out=(0, 0), count=2)
    assert (status, result) == (Status.OK, 2)
    new = [guest.frame(gfn) for gfn in (0x80, 0x82)]
    assert not set(old) & set(new)
    assert guest.vcpu.load(direct_map(0x80 << PAGE_SHIFT), 8) == 0
    assert guest.domain.stage2.lookup(0x82)[0] & 7 == 1
    out = argument_page(0) + ARG_ARRAYS + 16
    assert [guest.vcpu.load(out + 8 * n, 8) for n in range(2)] == [0x80, 0x82]


def test_exchange_goes_on_at_start(guest: Guest) -> None:
    kept = guest.frame(0x80)
    status, result = guest("exchange", gfns=(0x80, 0x81, 0x81), out=(7, 7, 7), count=1, start=1)
    assert (status, result) == (Status.OK, 1)
    assert guest.frame(0x80) == kept
    out = argument_page(0) + ARG_ARRAYS + 24
    assert [guest.vcpu.load(out + 8 * n, 8) for n in range(3)] == [7, 0x81, 7]


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (Status.INVALID, {"count": 0}),
        (Status.INVALID, {"count": EXCHANGE + 1}),
        (Status.FAULT, {"gfns": 0}),
        (Status.FAULT, {"gfns": 1 << 47}),
        (Status.FAULT, {"gfns": 0xFFFF_8000_0000_0000}),
        (Status.FAULT, {"out": 0xFFFF_8000_0000_0000}),
        (Status.FAULT, {"gfns": U64}),
        (Status.FAULT, {"out": U64}),
        (Status.FAULT, {"out": DIRECT_MAP - 8, "count": 2, "gfns": (5, 6)}),
        (Status.FAULT, {"out": DIRECT_MAP + (1 << 20) - 8, "count": 2, "gfns": (0x80, 0x81)}),
        (Status.INVALID, {"gfns": (MAX_GFN,)}),
        (Status.INVALID, {"gfns": (0x80, 0x80), "count": 2}),
        (Status.NOT_PRESENT, {"gfns": (0x200,)}),
        (Status.NOT_PRESENT, {"gfns": (0x200, U64), "count": 2}),
    ],
)
def test_exchange_refuses(guest: Guest, status: Status, fields: dict[str, Any]) -> None:
    refused(guest, status, "exchange", **{"gfns": (0x80,), "out": (0,), "count": 1, **fields})


def test_exchange_checks_the_elements_that_it_uses(guest: Guest) -> None:
    """XSA-212: the array may begin anywhere, if the elements from `start` on lie in guest memory."""
    element = argument_page(0) + ARG_ARRAYS
    guest("exchange", gfns=(0x80,), out=(0,), count=1)  # leaves 0x80 there
    base = DIRECT_MAP - 8 * 10
    assert base < DIRECT_MAP <= base + 8 * 20
    guest.vcpu.store(DIRECT_MAP, 8, 0x81)
    status, result = guest("exchange", gfns=base, out=element - 80, count=1, start=10)
    assert (status, result) == (Status.OK, 1)
    assert guest.vcpu.load(element, 8) == 0x81
    refused(guest, Status.FAULT, "exchange", gfns=base, out=element, count=1, start=9)
    refused(guest, Status.FAULT, "exchange", gfns=element, out=base, count=1, start=9)


def test_exchange_of_the_page_that_the_answer_goes_to(guest: Guest) -> None:
    out = direct_map(0x80 << PAGE_SHIFT)
    guest.vcpu.store(out + 64, 8, 5)
    assert guest("exchange", gfns=(0x80,), out=out, count=1) == (Status.OK, 1)
    assert guest.vcpu.load(out, 8) == 0x80
    assert guest.vcpu.load(out + 64, 8) == 0


def test_exchange_of_the_guests_own_page_tables(guest: Guest) -> None:
    page = guest_address(guest.domain, 0x10)
    assert guest("exchange", gfns=(1,), out=(0,), count=1) == (Status.OK, 1)
    assert guest.hv.machine.memory.load64(page + ARG_ARRAYS + 8) == 0  # no address leads there any more


def test_exchange_needs_a_frame_for_each_before_it_frees_one(guest: Guest) -> None:
    while guest.hv.allocator.available > 1:
        guest.hv.allocator.alloc_heap_page()
    refused(guest, Status.NO_MEMORY, "exchange", gfns=(0x80, 0x81), out=(0, 0), count=2)
    assert guest("exchange", gfns=(0x80,), out=(0,), count=1) == (Status.OK, 1)


def test_exchange_inside_a_superpage_splits_it_once(guest: Guest) -> None:
    guest("populate", first=0x200, count=1, order=9)
    pool = len(guest.domain.pool)
    assert guest("exchange", gfns=(0x201, 0x3FF), out=(0, 0), count=2) == (Status.OK, 2)
    assert len(guest.domain.pool) == pool - 1


def test_user_mode_and_hostile_pointers_change_nothing(guest: Guest) -> None:
    guest.vcpu.cpl = 3
    refused(guest, Status.NOT_PERMITTED, "populate", first=0x200, count=1)
    guest.vcpu.cpl = 0


def test_a_long_call_can_be_preempted(guest: Guest) -> None:
    class Watcher(Observer):
        __slots__ = ("longest", "points", "units")

        def __init__(self) -> None:
            self.points, self.units, self.longest = 0, guest.hv.work.units, 0

        def preemption_point(self) -> None:
            self.points += 1
            self.longest = max(self.longest, guest.hv.work.units - self.units)
            self.units = guest.hv.work.units

    for first in range(0x200, 0x400, 64):
        guest("populate", first=first, count=64)
    watcher = Watcher()
    guest.hv.observer = watcher
    for name, fields in (
        ("protect", {"count": 512, "rights": 1}),
        ("decrease", {"count": 512}),
    ):
        watcher.points = 0
        assert guest(name, first=0x200, **fields)[0] is Status.OK
        assert watcher.points >= 7, name


@pytest.mark.parametrize("seed", range(8))
def test_the_books_balance_after_any_step_of_any_history(seed: int, guest_call: Call, audit: Audit) -> None:
    rng = random.Random(seed)
    hv = boot(WORLDS_BY_NAME["devices"])

    class Auditor(Observer):
        __slots__ = ("count",)

        def __init__(self) -> None:
            self.count = 0

        def stepped(self, step: object) -> None:
            self.count += 1
            if rng.random() < 0.05:
                audit(hv)

    hv.observer = auditor = Auditor()
    outcomes = set()
    for _ in range(60):
        vcpu = hv.domains[rng.choice((1, 2))].vcpus[0]
        outcomes.add(random_call(rng, hv, vcpu, guest_call))
        audit(hv)
    assert auditor.count
    assert Status.OK in outcomes


GFNS = (0x7E, 0x80, 0x1FE, 0x200, 0x3FF, 0x400)
IOVAS = (0, 0x1000, 0x1F_F000, 1 << 30, (1 << 39) - 0x1000)


def random_call(rng: random.Random, hv: Hypervisor, vcpu: VCpu, guest_call: Call) -> Status:
    gfn, count, iova = rng.choice(GFNS), rng.choice((1, 1, 2, 3)), rng.choice(IOVAS)
    for page in (0x80, 0x200):  # fill the caches
        try:
            vcpu.load(direct_map(page << PAGE_SHIFT), 8)
        except GuestFault:
            continue
    options: list[tuple[str, dict[str, Any]]] = [
        ("memory.populate", {"first": gfn, "count": count}),
        ("memory.populate", {"first": 0x200, "count": 1, "order": 9}),
        ("memory.decrease", {"first": gfn, "count": rng.choice((1, 2, 512))}),
        ("memory.protect", {"first": gfn, "count": rng.choice((1, 2, 512)), "rights": rng.choice((1, 3, 7))}),
        ("memory.exchange", {"gfns": rng.sample(GFNS, 2), "out": (0, 0), "count": 2, "start": 0}),
        ("device.dma_map", {"iova": iova, "gfn": gfn, "count": count, "rights": rng.choice((1, 2, 3))}),
        ("device.dma_unmap", {"iova": iova, "count": count}),
        ("device.dma_submit", {"device": vcpu.domain - 1, "from": 0, "to": 0x1000, "length": 64}),
        ("grant.create", {"gfn": gfn, "to": 3 - vcpu.domain, "rights": rng.choice((1, 3))}),
        ("grant.revoke", {"ref": rng.randrange(3)}),
        (
            "grant.map",
            {
                "granter": 3 - vcpu.domain,
                "ref": rng.randrange(3),
                "gfn": rng.choice((0x3F0, 0x500)),
                "iova": iova,
                "flags": rng.randrange(8),
            },
        ),
        ("grant.unmap", {"handle": rng.randrange(3), "count": 1, "flags": rng.randrange(4)}),
    ]
    name, fields = rng.choice(options)
    return guest_call(hv, vcpu, name, **fields)[0]
