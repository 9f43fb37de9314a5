"""The device calls, as guests make them: assignment, mappings for devices, validated and batched DMA, and the race."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hvfuzz.abi.boot import (
    ARG_ARRAYS,
    DEVICES,
    MMIO_BASE,
    VIRTIO_BLK,
    VIRTIO_NET,
    WORLDS_BY_NAME,
    argument_page,
    direct_map,
)
from hvfuzz.abi.limits import BATCH, DMA_LENGTH, DMA_PAGES, IOVA_HOLE, IOVA_LIMIT, MAX_GFN, SELF
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import boot, guest_address
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, U64
from hvfuzz.machine.devices.dma_engine import DONE, ERROR, START, Register

Call = Callable[..., tuple[Status, int]]
Audit = Callable[[Hypervisor], None]
SOURCE, TARGET = 0x1000_0000, 0x1000_4000
SOURCE_GFN, TARGET_GFN = 0x80, 0x90


class Guests:
    """All domains of a world, and their device calls."""

    def __init__(self, hv: Hypervisor, guest_call: Call) -> None:
        self.hv = hv
        self._call = guest_call

    def __call__(self, domain: int, name: str, **fields: Any) -> tuple[Status, int]:
        name = name if "." in name else f"device.{name}"
        return self._call(self.hv, self.hv.domains[domain].vcpus[0], name, **fields)

    def memory(self, domain: int, gfn: int) -> int:
        return guest_address(self.hv.domains[domain], gfn)

    def map_both(self, domain: int = 1) -> None:
        """Two pages to read from, two to write to."""
        assert self(domain, "dma_map", iova=SOURCE, gfn=SOURCE_GFN, count=2, rights=1) == (Status.OK, 2)
        assert self(domain, "dma_map", iova=TARGET, gfn=TARGET_GFN, count=2, rights=2) == (Status.OK, 2)

    def write(self, gfn: int, data: bytes, offset: int = 0) -> None:
        self.hv.machine.memory.write(self.memory(1, gfn) + offset, data)

    def read(self, gfn: int, length: int, offset: int = 0) -> bytes:
        return self.hv.machine.memory.read(self.memory(1, gfn) + offset, length)


@pytest.fixture
def guests(hv: Hypervisor, guest_call: Call, audit: Audit) -> Iterator[Guests]:
    yield Guests(hv, guest_call)
    audit(hv)


# Assignment.


def test_only_the_control_domain_assigns(guests: Guests) -> None:
    assert guests(1, "assign", device=1, to=1) == (Status.NOT_PERMITTED, 0)
    assert guests(1, "deassign", device=0) == (Status.NOT_PERMITTED, 0)
    assert guests(0, "assign", device=1, to=2) == (Status.OK, 0)
    assert guests.hv.iommu.domain_of(guests.hv.machine.devices[1].bdf) == 2


@pytest.mark.parametrize(
    ("status", "name", "fields"),
    [
        (Status.NO_DEVICE, "assign", {"device": DEVICES, "to": 9}),
        (Status.NO_DEVICE, "assign", {"device": 0xFFFF, "to": 1}),
        (Status.NO_DOMAIN, "assign", {"device": 0, "to": 3}),
        (Status.BUSY, "assign", {"device": 0, "to": 1}),
        (Status.BUSY, "assign", {"device": 0, "to": 2}),
        (Status.OK, "assign", {"device": 1, "to": SELF}),
        (Status.NO_DEVICE, "deassign", {"device": DEVICES}),
        (Status.NOT_PRESENT, "deassign", {"device": 1}),
        (Status.OK, "deassign", {"device": 0}),
    ],
)
def test_assignment_checks(guests: Guests, status: Status, name: str, fields: dict[str, int]) -> None:
    assert guests(0, name, **fields) == (status, 0)


def test_a_device_that_changes_hands_takes_nothing_along(guests: Guests) -> None:
    guests.map_both()
    engine = guests.hv.machine.devices[0]
    guests.write(SOURCE_GFN, b"secret")
    assert guests(1, "dma_submit", device=0, **{"from": SOURCE}, to=TARGET, length=6) == (Status.OK, 6)
    assert guests.hv.machine.iommu.iotlb
    assert guests(0, "deassign", device=0) == (Status.OK, 0)
    assert not guests.hv.machine.iommu.iotlb
    assert [engine.mmio_read(register, 8) for register in (Register.SRC, Register.DST, Register.STATUS)] == [0, 0, 0]
    assert guests(1, "dma_submit", device=0, **{"from": SOURCE}, to=TARGET, length=6) == (Status.NOT_PERMITTED, 0)
    assert guests(0, "assign", device=0, to=2) == (Status.OK, 0)
    assert guests(2, "dma_submit", device=0, **{"from": SOURCE}, to=TARGET, length=6) == (Status.FAULT, 0)


def test_a_disk_that_changes_hands_is_empty(guests: Guests) -> None:
    disk = guests.hv.machine.devices[VIRTIO_BLK]
    disk.private[:6] = b"secret"
    assert guests(0, "assign", device=VIRTIO_BLK, to=1) == (Status.OK, 0)
    assert guests(0, "deassign", device=VIRTIO_BLK) == (Status.OK, 0)
    assert not any(disk.private)


@pytest.mark.parametrize("device", [VIRTIO_BLK, VIRTIO_NET])
def test_only_dma_engines_copy(guests: Guests, device: int) -> None:
    guests.map_both()
    assert guests(0, "assign", device=device, to=1) == (Status.OK, 0)
    submitted = guests(1, "dma_submit", device=device, **{"from": SOURCE}, to=TARGET, length=8)
    assert submitted == (Status.NO_DEVICE, 0)
    assert guests(1, "dma_batch", device=device, ring=0) == (Status.NO_DEVICE, 0)


# Mapping for devices.


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (Status.INVALID, {"count": 0}),
        (Status.INVALID, {"count": DMA_PAGES + 1}),
        (Status.INVALID, {"iova": SOURCE + 1}),
        (Status.INVALID, {"iova": IOVA_LIMIT}),
        (Status.INVALID, {"iova": IOVA_LIMIT - PAGE_SIZE, "count": 2}),
        (Status.INVALID, {"iova": IOVA_HOLE.start}),
        (Status.INVALID, {"iova": IOVA_HOLE.start - PAGE_SIZE, "count": 2}),
        (Status.INVALID, {"iova": IOVA_HOLE.stop - PAGE_SIZE, "count": 2}),
        (Status.OK, {"iova": IOVA_HOLE.start - PAGE_SIZE}),
        (Status.OK, {"iova": IOVA_HOLE.stop}),
        (Status.INVALID, {"iova": U64 & ~0xFFF}),
        (Status.INVALID, {"gfn": MAX_GFN}),
        (Status.INVALID, {"gfn": MAX_GFN - 1, "count": 2}),
        (Status.INVALID, {"gfn": U64}),
        (Status.INVALID, {"rights": 0}),
        (Status.INVALID, {"rights": 4}),
        (Status.INVALID, {"rights": 7}),
        (Status.NOT_PRESENT, {"gfn": 255, "count": 2}),
        (Status.OK, {"iova": IOVA_LIMIT - PAGE_SIZE, "rights": 2}),
        (Status.OK, {"count": DMA_PAGES, "rights": 3}),
    ],
)
def test_dma_map_checks(guests: Guests, status: Status, fields: dict[str, int]) -> None:
    wanted = {"iova": SOURCE, "gfn": SOURCE_GFN, "count": 1, "rights": 1, **fields}
    assert guests(1, "dma_map", **wanted) == (status, wanted["count"] if status is Status.OK else 0)


def test_devices_get_no_more_rights_than_the_guest_has(guests: Guests) -> None:
    guests(1, "memory.protect", first=SOURCE_GFN + 1, count=1, rights=1)
    assert guests(1, "dma_map", iova=0, gfn=SOURCE_GFN, count=2, rights=2) == (Status.NOT_PERMITTED, 0)
    assert guests(1, "dma_map", iova=0, gfn=SOURCE_GFN, count=2, rights=1) == (Status.OK, 2)


def test_grant_mappings_are_not_for_these_calls(guests: Guests) -> None:
    guests(2, "grant.create", gfn=0x80, to=1, rights=3)
    assert guests(1, "grant.map", granter=2, ref=0, gfn=0x300, iova=0x3000, flags=3) == (Status.OK, 0)
    assert guests(1, "dma_map", iova=0, gfn=0x300, count=1, rights=1) == (Status.NOT_OWNER, 0)
    assert guests(1, "dma_map", iova=0x2000, gfn=0x80, count=2, rights=1) == (Status.EXISTS, 0)
    assert guests(1, "dma_map", iova=0x2000, gfn=0x80, count=1, rights=1) == (Status.OK, 1)
    assert guests(1, "dma_unmap", iova=0x2000, count=2) == (Status.EXISTS, 0)
    assert guests(1, "dma_unmap", iova=0x2000, count=1) == (Status.OK, 1)
    # A granted page is as good a target as an own one.
    assert guests(1, "dma_map", iova=0, gfn=0x80, count=1, rights=1)[0] is Status.OK
    guests.write(0x80, b"for dom2")
    assert guests(1, "dma_submit", device=0, **{"from": 0}, to=0x3000, length=8) == (Status.OK, 8)
    assert guests.hv.machine.memory.read(guests.memory(2, 0x80), 8) == b"for dom2"


def test_an_empty_pool_refuses_tables_only(guests: Guests) -> None:
    for number in range(8):
        assert guests(1, "dma_map", iova=number << 30, gfn=5, count=1, rights=1) == (Status.OK, 1)
    assert not guests.hv.domains[1].pool
    assert guests(1, "dma_map", iova=1 << 35, gfn=5, count=1, rights=1) == (Status.NO_POOL, 0)
    assert guests(1, "dma_map", iova=PAGE_SIZE, gfn=5, count=1, rights=1) == (Status.OK, 1)
    assert guests(1, "dma_unmap", iova=1 << 30, count=1) == (Status.OK, 1)
    assert len(guests.hv.domains[1].pool) == 2


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (Status.INVALID, {"count": 0}),
        (Status.INVALID, {"count": DMA_PAGES + 1}),
        (Status.INVALID, {"iova": SOURCE + 8}),
        (Status.INVALID, {"iova": IOVA_LIMIT}),
        (Status.INVALID, {"iova": IOVA_HOLE.start}),
        (Status.NOT_PRESENT, {"count": 3}),
        (Status.NOT_PRESENT, {"iova": 0}),
    ],
)
def test_dma_unmap_checks(guests: Guests, status: Status, fields: dict[str, int]) -> None:
    guests.map_both()
    assert guests(1, "dma_unmap", **{"iova": SOURCE, "count": 1, **fields}) == (status, 0)


# DMA.


def test_submitted_dma_crosses_pages(guests: Guests) -> None:
    guests.map_both()
    data = bytes(range(256)) * 8
    guests.write(SOURCE_GFN, data[:1000], PAGE_SIZE - 1000)
    guests.write(SOURCE_GFN + 1, data[1000:])
    start, to = SOURCE + PAGE_SIZE - 1000, TARGET + PAGE_SIZE - 500
    assert guests(1, "dma_submit", device=0, **{"from": start}, to=to, length=2048) == (Status.OK, 2048)
    assert guests.read(TARGET_GFN, 500, PAGE_SIZE - 500) + guests.read(TARGET_GFN + 1, 1548) == data
    assert guests.hv.machine.devices[0].mmio_read(Register.STATUS, 8) == DONE


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (Status.NO_DEVICE, {"device": 2, "length": 0}),
        (Status.NOT_PERMITTED, {"device": 1, "length": 0}),
        (Status.INVALID, {"length": 0}),
        (Status.INVALID, {"length": DMA_LENGTH + 1}),
        (Status.INVALID, {"from": IOVA_LIMIT - 4, "length": 5}),
        (Status.INVALID, {"to": U64}),
        (Status.FAULT, {"from": TARGET}),
        (Status.FAULT, {"to": SOURCE}),
        (Status.FAULT, {"from": SOURCE + 1, "length": DMA_LENGTH}),
        (Status.FAULT, {"to": TARGET + 2 * PAGE_SIZE}),
        (Status.OK, {"length": DMA_LENGTH}),
        (Status.OK, {"from": SOURCE + 2 * PAGE_SIZE - 1, "length": 1}),
    ],
)
def test_dma_submit_checks(guests: Guests, status: Status, fields: dict[str, int]) -> None:
    guests.map_both()
    wanted = {"device": 0, "from": SOURCE, "to": TARGET, "length": 8, **fields}
    assert guests(1, "dma_submit", **wanted) == (status, wanted["length"] if status is Status.OK else 0)


def test_a_driver_may_program_the_device_itself_and_reaches_no_further(guests: Guests) -> None:
    guests.map_both()
    vcpu = guests.hv.domains[1].vcpus[0]
    window = direct_map(MMIO_BASE)
    for register, value in ((Register.SRC, SOURCE), (Register.DST, SOURCE), (Register.LENGTH, 8)):
        vcpu.store(window + register, 8, value)
    vcpu.store(window + Register.CONTROL, 8, START)
    assert vcpu.load(window + Register.STATUS, 8) == ERROR


def ring(*requests: tuple[int, int, int], count: int | None = None) -> tuple[int, ...]:
    return (len(requests) if count is None else count, *(word for request in requests for word in request))


def test_a_batch_runs_in_order(guests: Guests) -> None:
    guests.map_both()
    guests.write(SOURCE_GFN, b"abcd")
    guests(1, "dma_map", iova=TARGET + 2 * PAGE_SIZE, gfn=TARGET_GFN, count=1, rights=1)  # to read it back
    requests = ring((SOURCE, TARGET, 4), (TARGET + 2 * PAGE_SIZE, TARGET + 100, 4))
    assert guests(1, "dma_batch", device=0, ring=requests) == (Status.OK, 2)
    assert guests.read(TARGET_GFN, 4, 100) == b"abcd"


@pytest.mark.parametrize(
    ("status", "device", "requests"),
    [
        (Status.NO_DEVICE, 2, 0),
        (Status.NOT_PERMITTED, 1, 0),
        (Status.FAULT, 0, 0),
        (Status.FAULT, 0, direct_map(256 << PAGE_SHIFT) - 8),
        (Status.FAULT, 0, U64 - 6),
        (Status.INVALID, 0, ring()),
        (Status.INVALID, 0, ring(count=BATCH + 1)),
        (Status.INVALID, 0, ring(count=U64)),
        (Status.INVALID, 0, ring((SOURCE, TARGET, 4), (SOURCE, TARGET, 0))),
        (Status.FAULT, 0, ring((SOURCE, TARGET, 4), (TARGET, TARGET, 1))),
        (Status.OK, 0, ring(*[(SOURCE, TARGET, 4)] * BATCH)),
    ],
)
def test_batch_checks(guests: Guests, status: Status, device: int, requests: Any) -> None:
    guests.map_both()
    guests.write(255, struct.pack("<Q", 1), PAGE_SIZE - 8)  # a header at the end of memory, and no request after it
    guests.write(SOURCE_GFN, b"data")
    result = requests[0] if status is Status.OK else 0
    assert guests(1, "dma_batch", device=device, ring=requests) == (status, result)
    assert (guests.read(TARGET_GFN, 4) == b"data") == (status is Status.OK)


class Batch:
    """A batch of one request, and something that happens before one of its fetches."""

    def __init__(self, guests: Guests, fetch: int, action: Callable[[], None]) -> None:
        guests.map_both()
        guests.write(SOURCE_GFN, b"data")
        self.guests = guests
        self.fetches = guests.hv.machine.fetches
        self.fetches.reset()
        self.fetches.arm(fetch, action)

    def run(self) -> tuple[Status, int]:
        return self.guests(1, "dma_batch", device=0, ring=ring((SOURCE, TARGET, 4)))


def test_the_number_of_requests_is_fetched_once(guests: Guests) -> None:
    """XSA-155: what was validated is what is used."""

    def grow() -> None:
        guests.hv.domains[1].vcpus[1].store(argument_page(0) + ARG_ARRAYS, 8, 255)

    batch = Batch(guests, 3, grow)  # header and body of the struct, header of the ring, then the requests
    assert batch.run() == (Status.OK, 1)
    assert batch.fetches.count == 4
    assert guests.read(TARGET_GFN, 4) == b"data"


@pytest.mark.parametrize("fetch", [2, 3])
def test_a_device_that_is_taken_away_meanwhile_is_noticed(guests: Guests, fetch: int) -> None:
    def give_away() -> None:
        assert guests(0, "deassign", device=0)[0] is Status.OK
        assert guests(0, "assign", device=0, to=2)[0] is Status.OK

    assert Batch(guests, fetch, give_away).run() == (Status.NOT_PERMITTED, 0)
    assert guests.hv.machine.devices[0].mmio_read(Register.STATUS, 8) == 0


def test_mappings_that_vanish_meanwhile_are_noticed(guests: Guests) -> None:
    def unmap() -> None:
        vcpu = guests.hv.domains[1].vcpus[1]
        assert guests._call(guests.hv, vcpu, "device.dma_unmap", iova=TARGET, count=1)[0] is Status.OK

    assert Batch(guests, 3, unmap).run() == (Status.FAULT, 0)


def test_old_domains_have_no_batches(guest_call: Call) -> None:
    guests = Guests(boot(WORLDS_BY_NAME["old"]), guest_call)
    assert guests(2, "dma_batch")[0] is Status.NO_CALL


def test_every_displaced_frame_is_flushed_within_its_own_step(guests: Guests, audit: Audit) -> None:
    """XSA-346: a batch must not put the flush off."""
    guests.map_both()
    guests(1, "dma_submit", device=0, **{"from": SOURCE}, to=TARGET, length=DMA_LENGTH)
    assert len(guests.hv.machine.iommu.iotlb) == 4

    class Auditor(Observer):
        __slots__ = ("steps",)

        def __init__(self) -> None:
            self.steps = 0

        def stepped(self, step: object) -> None:
            self.steps += 1
            audit(guests.hv)

    guests.hv.observer = auditor = Auditor()
    assert guests(1, "dma_map", iova=TARGET, gfn=0xA0, count=2, rights=3) == (Status.OK, 2)
    assert guests(1, "dma_unmap", iova=SOURCE, count=2) == (Status.OK, 2)
    assert auditor.steps == 4
