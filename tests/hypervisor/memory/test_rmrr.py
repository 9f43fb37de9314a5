"""Memory that firmware keeps for devices: the DMAR table read back, and the region's way through assignments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.abi.boot import RESERVED_BASE, WORLDS_BY_NAME
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.host import HostFault, HostMemory
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.memory.frames import FRAME_TABLE_BASE, OWNER_HYPERVISOR, FrameState
from hvfuzz.hypervisor.memory.rmrr import read_regions
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, READ, WRITE
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.vtd.dmar import DMAR_ADDRESS, DRHD, HEADER, RMRR, STRUCTURE, ReservedMemory, dmar_table
from hvfuzz.machine.vtd.iommu import DmaFault

Call = Callable[..., tuple[Status, int]]
MEMORY = 1 << 20
PAGES = range(RESERVED_BASE >> PAGE_SHIFT, (RESERVED_BASE >> PAGE_SHIFT) + 2)


def read_back(table: bytes) -> dict[int, range]:
    """What the hypervisor makes of a table at DMAR_ADDRESS."""
    machine = Machine(MEMORY)
    machine.memory.write(DMAR_ADDRESS, table)
    return read_regions(HostMemory(machine), DMAR_ADDRESS)


@st.composite
def firmware(draw: st.DrawFn) -> dict[int, range]:
    """Device -> its frames: regions in memory that do not meet."""
    edges = sorted(draw(st.sets(st.integers(0, MEMORY >> PAGE_SHIFT), max_size=16)))
    bdfs = draw(st.lists(st.integers(0, 0xFFFF), unique=True, min_size=len(edges), max_size=len(edges)))
    return {bdf: range(first, end) for bdf, first, end in zip(bdfs, edges[::2], edges[1::2], strict=False)}


def table_of(regions: dict[int, range]) -> bytes:
    return dmar_table(
        46,
        [
            ReservedMemory(bdf, pages.start << PAGE_SHIFT, (pages.stop << PAGE_SHIFT) - 1)
            for bdf, pages in regions.items()
        ],
    )


@given(regions=firmware())
def test_what_firmware_writes_is_read_back(regions: dict[int, range]) -> None:
    table = table_of(regions)
    assert sum(table) & 0xFF == 0
    assert len(table) == int.from_bytes(table[4:8], "little")
    assert read_back(table) == regions


def with_checksum(data: bytearray) -> bytes:
    data[9] = (data[9] - sum(data)) & 0xFF
    return bytes(data)


@settings(max_examples=400)
@given(regions=firmware(), damage=st.data())
def test_any_damage_is_a_refusal_or_gives_regions_that_hold(regions: dict[int, range], damage: st.DataObject) -> None:
    """Bytes changed, inserted, cut or appended, with a length and a checksum that are mostly mended."""
    data = bytearray(table_of(regions))
    for _ in range(damage.draw(st.integers(1, 4))):
        at = damage.draw(st.integers(0, len(data) - 1))
        match damage.draw(st.sampled_from(("change", "change", "change", "insert", "cut", "append"))):
            case "change":
                data[at] = damage.draw(st.one_of(st.sampled_from((0, 1, 2, 3, 4, 8, 0x7F, 0xFF)), st.integers(0, 255)))
            case "insert":
                data[at:at] = damage.draw(st.binary(min_size=1, max_size=9))
            case "cut":
                del data[at : at + damage.draw(st.integers(1, 9))]
            case "append":
                data += damage.draw(st.binary(min_size=1, max_size=9))
        data += bytes(max(0, HEADER.size - len(data)))
    if damage.draw(st.booleans()):
        data[4:8] = len(data).to_bytes(4, "little")
    length = int.from_bytes(data[4:8], "little")
    if length <= len(data) and damage.draw(st.integers(0, 4)):
        data = bytearray(with_checksum(data[:length]) + data[length:]) if length >= HEADER.size else data
    _is_refused_or_holds(bytes(data))


@settings(max_examples=400)
@given(st.binary(max_size=120))
def test_arbitrary_structures_are_a_refusal_or_give_regions_that_hold(body: bytes) -> None:
    data = bytearray(dmar_table(46, []) + body)
    data[4:8] = len(data).to_bytes(4, "little")
    _is_refused_or_holds(with_checksum(data))


def _is_refused_or_holds(table: bytes) -> None:
    """HostFault is the only exception; regions are within memory and do not meet."""
    try:
        regions = read_back(table)
    except HostFault:
        return
    frames = [hfn for pages in regions.values() for hfn in pages]
    assert all(0 <= hfn < MEMORY >> PAGE_SHIFT for hfn in frames)
    assert len(set(frames)) == len(frames)
    assert all(pages and 0 <= bdf <= 0xFFFF for bdf, pages in regions.items())


@pytest.mark.parametrize("left", [1, 2, 3])
def test_bytes_after_the_last_structure(left: int) -> None:
    data = bytearray(table_of({0x28: range(1, 2)}) + bytes(left))
    data[4:8] = len(data).to_bytes(4, "little")
    with pytest.raises(HostFault, match=f"{left} bytes are left"):
        read_back(with_checksum(data))


def test_a_structure_of_an_unknown_type_is_skipped() -> None:
    data = bytearray(table_of({0x28: range(1, 2)}) + STRUCTURE.pack(77, 7) + bytes(3))
    data[4:8] = len(data).to_bytes(4, "little")
    assert read_back(with_checksum(data)) == {0x28: range(1, 2)}


@pytest.mark.parametrize(
    ("base", "limit", "what"),
    [
        (MEMORY, MEMORY + 0xFFF, "reserved region"),
        (MEMORY - 0x1000, MEMORY + 0xFFF, "reserved region"),
        (0x2000, 0x1FFF, "reserved region"),
        (1 << 63, (1 << 64) - 1, "reserved region"),
    ],
)
def test_a_region_that_is_not_in_memory(base: int, limit: int, what: str) -> None:
    with pytest.raises(HostFault, match=what):
        read_back(dmar_table(46, [ReservedMemory(0x28, base, limit)]))


def test_a_region_of_two_devices() -> None:
    with pytest.raises(HostFault, match="also another's"):
        read_back(dmar_table(46, [ReservedMemory(0x28, 0x1000, 0x2FFF), ReservedMemory(0x30, 0x2000, 0x3FFF)]))


@pytest.mark.parametrize("frame", [0, FRAME_TABLE_BASE >> PAGE_SHIFT])
def test_a_region_in_the_memory_of_the_hypervisor_stops_the_boot(frame: int) -> None:
    world = WORLDS_BY_NAME["reserved"]
    with pytest.raises(HostFault, match="is the hypervisor's"):
        boot(world._replace(reserved=((1, frame << PAGE_SHIFT, 1),)))


def test_a_table_that_is_not_understood_stops_the_boot() -> None:
    good = dmar_table(46, [ReservedMemory(0x28, 0x1000, 0x1FFF)])
    at = HEADER.size + DRHD.size

    def changed(offset: int, value: int) -> bytes:
        data = bytearray(good)
        data[9] = (data[9] + data[offset] - value) & 0xFF
        data[offset] = value
        return bytes(data)

    assert read_back(changed(at + 8, good[at + 8])) == {0x28: range(1, 2)}
    for offset, value, what in (
        (0, ord("X"), "no DMAR table"),
        (HEADER.size + 2, 0, "structure of 0 bytes"),
        (HEADER.size, 9, "0 IOMMUs"),
        (at + 2, RMRR.size - 4, "RMRR structure of"),
        (at + 2, RMRR.size + 4, "truncated device scope"),
        (at + 6, 1, "of segment 1"),
        (at + 8, 8, "reserved region 0x1008"),
        (at + 16, 0xFE, "reserved region 0x1000 to 0x1ffe"),
        (at + RMRR.size, 2, "unsupported device scope"),
    ):
        with pytest.raises(HostFault, match=what):
            read_back(changed(offset, value))
    with pytest.raises(HostFault, match="checksum"):
        read_back(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(HostFault, match="two reserved regions"):
        read_back(dmar_table(46, [ReservedMemory(0x28, 0x1000, 0x1FFF), ReservedMemory(0x28, 0x3000, 0x3FFF)]))


@pytest.fixture
def reserved() -> Hypervisor:
    """The world in which firmware keeps two pages for device 1, which dom1 has."""
    return boot(WORLDS_BY_NAME["reserved"])


def test_the_frames_are_nobodys_to_use(reserved: Hypervisor, guest_call: Call) -> None:
    hv = reserved
    free = hv.allocator.available
    assert guest_call(hv, hv.domains[2].vcpus[0], "memory.populate", first=0x400, count=1, order=9)[0] == Status.OK
    while hv.allocator.available:
        hv.allocator.take(hv.allocator.choose(1)[0], 2, FrameState.OWNED)  # type: ignore[index]
    assert free > 512
    for hfn in PAGES:
        frame = hv.frames.frame(hfn)
        assert (frame.owner, frame.state, frame.maps) == (OWNER_HYPERVISOR, FrameState.RESERVED, 1)


def test_the_region_follows_its_device(
    reserved: Hypervisor, guest_call: Call, audit: Callable[[Hypervisor], None], device_leaves: Callable[..., Any]
) -> None:
    hv = reserved
    control = hv.domains[0].vcpus[0]
    device = hv.machine.devices[1]
    identity = {page: (page, READ | WRITE) for page in PAGES}
    pools = [len(domain.pool) for domain in hv.domains]

    def reach(domain: int) -> dict[int, tuple[int, int]]:
        return {page: (leaf.hfn, leaf.rights) for page, leaf in device_leaves(hv, domain).items()}

    for owner in (1, 2, 2, 0, 1):
        if hv.iommu.domain_of(device.bdf) != owner:
            assert guest_call(hv, control, "device.assign", device=1, to=owner) == (Status.OK, 0)
        assert [reach(domain) for domain in range(3)] == [identity if domain == owner else {} for domain in range(3)]
        device.dma_write(RESERVED_BASE + PAGE_SIZE - 4, bytes([owner + 1] * 4))
        assert device.dma_read(RESERVED_BASE + PAGE_SIZE - 4, 4) == bytes([owner + 1] * 4)
        assert guest_call(hv, control, "device.deassign", device=1) == (Status.OK, 0)
        assert [reach(domain) for domain in range(3)] == [{}, {}, {}]
        assert hv.machine.memory.read(RESERVED_BASE, 2 * PAGE_SIZE) == bytes(2 * PAGE_SIZE)
        assert not hv.machine.iommu.iotlb
        with pytest.raises(DmaFault):
            device.dma_read(RESERVED_BASE, 1)
    # What dom1 needed at boot was not from the pool it started with: that is more now.
    assert [len(domain.pool) for domain in hv.domains] == [pools[0], pools[1] + 2, pools[2]]


def test_no_call_gets_at_the_addresses(reserved: Hypervisor, guest_call: Call) -> None:
    hv = reserved
    owner, other = hv.domains[1].vcpus[0], hv.domains[2].vcpus[0]
    for vcpu in (owner, other):
        for first, count in ((PAGES[0], 1), (PAGES[1], 1), (PAGES[0] - 1, 2), (PAGES[0] - 3, 64), (PAGES[1], 2)):
            iova = first << PAGE_SHIFT
            status, _ = guest_call(hv, vcpu, "device.dma_map", iova=iova, gfn=0x40, count=count, rights=3)
            assert status == Status.NOT_PERMITTED
            assert guest_call(hv, vcpu, "device.dma_unmap", iova=iova, count=count)[0] == Status.NOT_PERMITTED
        for page in (PAGES[0] - 1, PAGES[1] + 1):
            iova = page << PAGE_SHIFT
            assert guest_call(hv, vcpu, "device.dma_map", iova=iova, gfn=0x40, count=1, rights=3) == (Status.OK, 1)
