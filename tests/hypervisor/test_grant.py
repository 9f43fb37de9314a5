"""Grants: entries, mappings with their counts, unmapping in bursts, copies."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import DIRECT_MAP
from hvfuzz.abi.limits import SELF
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.domains import Grant, Mapping
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
Audit = Callable[[Hypervisor], None]
Leaves = Callable[[Hypervisor, int], dict[int, Any]]
R, RW = 1, 3
HOST, DEVICE, READONLY = 1, 2, 4
GFN, AT, IOVA = 0x40, 0x180, 0x5000


@pytest.fixture
def one(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1, the granter."""
    return hv.domains[1].vcpus[0]


@pytest.fixture
def two(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom2, the mapper."""
    return hv.domains[2].vcpus[0]


@pytest.fixture
def frame(hv: Hypervisor) -> int:
    """The host frame of dom1's page GFN."""
    return guest_address(hv.domains[1], GFN) >> PAGE_SHIFT


class Preemptions(Observer):
    """Notes at which step each preemption point came."""

    __slots__ = ("at", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self.at: list[int] = []

    def step(self, step: Any) -> None:
        self.steps += 1

    def preemption_point(self) -> None:
        self.at.append(self.steps)


def grant(hv: Hypervisor, guest_call: GuestCall, one: VCpu, gfn: int = GFN, rights: int = RW) -> int:
    status, ref = guest_call(hv, one, "grant.create", gfn=gfn, to=2, rights=rights)
    assert status is Status.OK
    return ref


def map_at(
    hv: Hypervisor, guest_call: GuestCall, two: VCpu, ref: int, flags: int, gfn: int = AT, iova: int = IOVA
) -> int:
    status, handle = guest_call(hv, two, "grant.map", granter=1, ref=ref, gfn=gfn, iova=iova, flags=flags)
    assert status is Status.OK
    return handle


def test_creating_and_revoking_counts_the_grant(
    hv: Hypervisor, one: VCpu, frame: int, guest_call: GuestCall, audit: Audit
) -> None:
    assert grant(hv, guest_call, one) == 0
    assert grant(hv, guest_call, one, rights=R) == 1
    assert hv.domains[1].grants[0] == Grant(GFN, frame, 2, RW)
    assert hv.frames.frame(frame)[1:] == (FrameState.SHARED, 1, 0, 2)
    audit(hv)
    assert guest_call(hv, one, "grant.revoke", ref=0) == (Status.OK, 0)
    assert grant(hv, guest_call, one, gfn=GFN + 1) == 0, "the lowest free entry"
    assert guest_call(hv, one, "grant.revoke", ref=1) == (Status.OK, 0)
    assert hv.frames.frame(frame)[1:] == (FrameState.OWNED, 1, 0, 0)
    for ref in (1, 63, 64, 0xFFFF_FFFF):
        assert guest_call(hv, one, "grant.revoke", ref=ref) == (Status.NO_GRANT, 0)
    audit(hv)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"gfn": 0x800, "to": 9, "rights": 0}, Status.INVALID),
        ({"gfn": 0x7FF, "to": 9, "rights": 2}, Status.INVALID),
        ({"gfn": 0x7FF, "to": 9, "rights": 7}, Status.INVALID),
        ({"gfn": 0x7FF, "to": 9, "rights": R}, Status.NO_DOMAIN),
        ({"gfn": 0x7FF, "to": SELF, "rights": R}, Status.INVALID),
        ({"gfn": 0x7FF, "to": 1, "rights": R}, Status.INVALID),
        ({"gfn": 0x7FF, "to": 2, "rights": R}, Status.NOT_PRESENT),
        ({"gfn": GFN, "to": 0, "rights": RW}, Status.OK),
    ],
)
def test_create_refuses_in_order(
    hv: Hypervisor, one: VCpu, guest_call: GuestCall, fields: dict[str, int], status: Status
) -> None:
    assert guest_call(hv, one, "grant.create", **fields) == (status, 0)


def test_rights_that_one_has_not_cannot_be_granted(hv: Hypervisor, one: VCpu, guest_call: GuestCall) -> None:
    guest_call(hv, one, "memory.protect", first=GFN, count=1, rights=R)
    assert guest_call(hv, one, "grant.create", gfn=GFN, to=2, rights=RW) == (Status.NOT_PERMITTED, 0)
    assert guest_call(hv, one, "grant.create", gfn=GFN, to=2, rights=R) == (Status.OK, 0)


def test_a_mapped_grant_cannot_be_granted_on(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    map_at(hv, guest_call, two, grant(hv, guest_call, one), HOST)
    assert guest_call(hv, two, "grant.create", gfn=AT, to=0, rights=R) == (Status.NOT_OWNER, 0)


def test_entries_run_out(hv: Hypervisor, one: VCpu, guest_call: GuestCall, audit: Audit) -> None:
    assert [grant(hv, guest_call, one) for _ in range(64)] == list(range(64))
    assert guest_call(hv, one, "grant.create", gfn=GFN, to=2, rights=R) == (Status.LIMIT, 0)
    audit(hv)


def test_a_page_of_a_superpage_can_be_granted(
    hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, audit: Audit
) -> None:
    assert guest_call(hv, one, "memory.populate", first=0x400, count=1, order=9) == (Status.OK, 1)
    block, *_ = hv.domains[1].stage2.lookup(0x400)
    ref = grant(hv, guest_call, one, gfn=0x407)
    entry = hv.domains[1].grants[ref]
    assert entry is not None
    assert entry.frame == ((block >> PAGE_SHIFT) & 0xFFFFFF) + 7
    map_at(hv, guest_call, two, ref, HOST | DEVICE)
    audit(hv)


def test_both_sides_are_mapped_pinned_and_released(
    hv: Hypervisor,
    one: VCpu,
    two: VCpu,
    frame: int,
    guest_call: GuestCall,
    leaves: Leaves,
    device_leaves: Leaves,
    audit: Audit,
) -> None:
    ref = grant(hv, guest_call, one)
    handle = map_at(hv, guest_call, two, ref, HOST | DEVICE)
    assert hv.domains[2].handles[handle] == Mapping(1, ref, True, True, AT, IOVA, frame, RW)
    assert leaves(hv, 2)[AT][1:] == (frame, RW, 1, True)
    assert device_leaves(hv, 2)[IOVA >> PAGE_SHIFT][1:] == (frame, RW, 1, True)
    assert hv.frames.frame(frame)[1:] == (FrameState.SHARED, 3, 2, 1)
    assert guest_call(hv, one, "grant.revoke", ref=ref) == (Status.BUSY, 0)
    audit(hv)
    assert guest_call(hv, two, "grant.unmap", handle=handle, count=1, flags=HOST) == (Status.OK, 1)
    assert hv.domains[2].handles[handle] == Mapping(1, ref, False, True, 0, IOVA, frame, RW)
    assert hv.domains[1].grants[ref] == Grant(GFN, frame, 2, RW, 0, 1)
    assert AT not in leaves(hv, 2)
    assert IOVA >> PAGE_SHIFT in device_leaves(hv, 2)
    audit(hv)
    assert guest_call(hv, one, "grant.revoke", ref=ref) == (Status.BUSY, 0)
    assert guest_call(hv, two, "grant.unmap", handle=handle, count=1, flags=HOST) == (Status.OK, 0), "passed over"
    assert guest_call(hv, two, "grant.unmap", handle=handle, count=1, flags=HOST | DEVICE) == (Status.OK, 1)
    assert hv.domains[2].handles[handle] is None
    assert guest_call(hv, one, "grant.revoke", ref=ref) == (Status.OK, 0)
    assert hv.frames.frame(frame)[1:] == (FrameState.OWNED, 1, 0, 0)
    audit(hv)


def test_device_address_zero_is_an_address(
    hv: Hypervisor, one: VCpu, two: VCpu, frame: int, guest_call: GuestCall, device_leaves: Leaves, audit: Audit
) -> None:
    handle = map_at(hv, guest_call, two, grant(hv, guest_call, one), HOST | DEVICE, iova=0)
    assert guest_call(hv, two, "grant.unmap", handle=handle, count=1, flags=HOST) == (Status.OK, 1)
    assert device_leaves(hv, 2)[0].hfn == frame
    assert hv.frames.frame(frame).pins == 1
    audit(hv)


def test_the_mapper_reaches_the_frame_until_it_unmaps(
    hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall
) -> None:
    handle = map_at(hv, guest_call, two, grant(hv, guest_call, one), HOST)
    one.store(DIRECT_MAP + GFN * PAGE_SIZE, 8, 0xFEED)
    assert two.load(DIRECT_MAP + AT * PAGE_SIZE) == 0xFEED
    two.store(DIRECT_MAP + AT * PAGE_SIZE, 8, 0xBEEF)
    assert one.load(DIRECT_MAP + GFN * PAGE_SIZE) == 0xBEEF
    with pytest.raises(GuestFault):
        two.execute(DIRECT_MAP + AT * PAGE_SIZE)
    guest_call(hv, two, "grant.unmap", handle=handle, count=1, flags=HOST)
    with pytest.raises(GuestFault):
        two.load(DIRECT_MAP + AT * PAGE_SIZE)


@pytest.mark.parametrize(("rights", "flags"), [(R, READONLY), (RW, READONLY)])
def test_read_only_mappings(
    hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, leaves: Leaves, rights: int, flags: int
) -> None:
    ref = grant(hv, guest_call, one, rights=rights)
    map_at(hv, guest_call, two, ref, HOST | flags)
    assert leaves(hv, 2)[AT].rights == R
    with pytest.raises(GuestFault):
        two.store(DIRECT_MAP + AT * PAGE_SIZE, 8, 1)


# A read-only grant of dom1 to dom2 is entry 0, and a writable one to dom0 entry 1; dom2 has handle 0 at AT and IOVA.
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"flags": 0, "granter": 9}, Status.INVALID),
        ({"flags": READONLY, "granter": 9}, Status.INVALID),
        ({"flags": HOST | 8, "granter": 9}, Status.INVALID),
        ({"gfn": 0x800, "granter": 9}, Status.INVALID),
        ({"flags": DEVICE, "iova": 0x5008, "granter": 9}, Status.INVALID),
        ({"flags": DEVICE, "iova": 1 << 39, "granter": 9}, Status.INVALID),
        ({"flags": DEVICE, "iova": 0xFEEF_F000, "granter": 9}, Status.INVALID),
        ({"granter": 9, "ref": 99}, Status.NO_DOMAIN),
        ({"granter": 2, "ref": 99}, Status.INVALID),
        ({"granter": SELF, "ref": 99}, Status.INVALID),
        ({"ref": 64, "gfn": AT}, Status.NO_GRANT),
        ({"ref": 2, "gfn": AT}, Status.NO_GRANT),
        ({"ref": 1, "gfn": AT}, Status.NO_GRANT),
        ({"granter": 0, "ref": 0, "gfn": AT}, Status.NO_GRANT),
        ({"flags": HOST, "gfn": AT}, Status.NOT_PERMITTED),
        ({"gfn": AT}, Status.EXISTS),
        ({"gfn": 0x10}, Status.EXISTS),
        ({"flags": DEVICE | READONLY, "gfn": 1 << 60}, Status.EXISTS),
        ({"flags": DEVICE | READONLY, "gfn": 1 << 60, "iova": 0x9000}, Status.OK),
        ({"iova": (1 << 64) - 1}, Status.OK),
    ],
)
def test_map_refuses_in_order(
    hv: Hypervisor,
    one: VCpu,
    two: VCpu,
    guest_call: GuestCall,
    audit: Audit,
    changes: dict[str, int],
    status: Status,
) -> None:
    grant(hv, guest_call, one, rights=R)
    assert guest_call(hv, one, "grant.create", gfn=GFN, to=0, rights=RW) == (Status.OK, 1)
    map_at(hv, guest_call, two, 0, HOST | DEVICE | READONLY)
    fields = {"granter": 1, "ref": 0, "gfn": 0x1A0, "iova": IOVA, "flags": HOST | READONLY} | changes
    assert guest_call(hv, two, "grant.map", **fields) == (status, 1 if status is Status.OK else 0)
    audit(hv)


def test_handles_run_out_and_are_reused_lowest_first(
    hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, audit: Audit
) -> None:
    ref = grant(hv, guest_call, one)
    assert [map_at(hv, guest_call, two, ref, HOST, gfn=0x140 + i) for i in range(64)] == list(range(64))
    full = guest_call(hv, two, "grant.map", granter=1, ref=ref, gfn=0x1C0, iova=0, flags=HOST)
    assert full == (Status.LIMIT, 0)
    audit(hv)
    for handle in (40, 3):
        assert guest_call(hv, two, "grant.unmap", handle=handle, count=1, flags=HOST) == (Status.OK, 1)
    assert [map_at(hv, guest_call, two, ref, HOST, gfn=0x1D0 + i) for i in range(2)] == [3, 40]


def test_tables_come_from_the_mappers_pool(
    hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, audit: Audit
) -> None:
    ref = grant(hv, guest_call, one)
    pool = hv.domains[2].pool
    before = len(pool)
    handle = map_at(hv, guest_call, two, ref, HOST | DEVICE, gfn=0x7FF)
    assert len(pool) == before - 3, "one stage-2 table, two of the IOMMU's"
    guest_call(hv, two, "grant.unmap", handle=handle, count=1, flags=HOST | DEVICE)
    assert len(pool) == before
    while len(pool) > 2:
        pool.pop()
    fields = {"granter": 1, "ref": ref, "gfn": 0x7FF, "iova": IOVA}
    assert guest_call(hv, two, "grant.map", **fields, flags=HOST | DEVICE) == (Status.NO_POOL, 0)
    assert guest_call(hv, two, "grant.map", **fields, flags=DEVICE) == (Status.OK, 0)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"handle": 9, "count": 0, "flags": HOST}, Status.INVALID),
        ({"handle": 9, "count": 65, "flags": HOST}, Status.INVALID),
        ({"handle": 9, "count": 1, "flags": 0}, Status.INVALID),
        ({"handle": 9, "count": 1, "flags": 4}, Status.INVALID),
        ({"handle": 9, "count": 1, "flags": HOST}, Status.BAD_HANDLE),
        ({"handle": 0, "count": 3, "flags": HOST}, Status.BAD_HANDLE),
        ({"handle": 63, "count": 64, "flags": HOST}, Status.BAD_HANDLE),
        ({"handle": 0xFFFF_FFFF, "count": 64, "flags": HOST}, Status.BAD_HANDLE),
        ({"handle": 0, "count": 2, "flags": HOST | DEVICE}, Status.OK),
    ],
)
def test_unmap_refuses_in_order(
    hv: Hypervisor,
    one: VCpu,
    two: VCpu,
    guest_call: GuestCall,
    audit: Audit,
    fields: dict[str, int],
    status: Status,
) -> None:
    ref = grant(hv, guest_call, one)
    map_at(hv, guest_call, two, ref, HOST)
    map_at(hv, guest_call, two, ref, DEVICE)
    assert guest_call(hv, two, "grant.unmap", **fields) == (status, 2 if status is Status.OK else 0)
    audit(hv)


@pytest.mark.parametrize(("flags", "released", "points"), [(HOST, 20, [8, 16]), (HOST | DEVICE, 40, [8, 16, 24, 32])])
def test_unmapping_many_is_preempted_after_eight_releases(
    hv: Hypervisor,
    one: VCpu,
    two: VCpu,
    guest_call: GuestCall,
    audit: Audit,
    flags: int,
    released: int,
    points: list[int],
) -> None:
    ref = grant(hv, guest_call, one)
    for i in range(20):
        map_at(hv, guest_call, two, ref, HOST | DEVICE, gfn=AT + i, iova=IOVA + i * PAGE_SIZE)
    hv.observer = preemptions = Preemptions()
    assert guest_call(hv, two, "grant.unmap", handle=0, count=20, flags=flags) == (Status.OK, released)
    assert preemptions.at == points
    audit(hv)


# Page GFN of dom1 holds letters, page GFN of dom2 digits; dom1 grants its page to dom2 as entry 0 (R) and 1 (RW).
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": 4, "length": 0}, Status.INVALID),
        ({"flags": 1, "from_domain": 9, "length": 0}, Status.INVALID),
        ({"flags": 1, "from_domain": 9, "length": 4090, "from_offset": 7}, Status.INVALID),
        ({"flags": 1, "from_domain": 9, "length": 4090, "to_offset": 7}, Status.INVALID),
        ({"flags": 1, "from_domain": 9, "length": 0xFFFF}, Status.INVALID),
        ({"from": 0x800, "to": 0x900, "length": 1}, Status.INVALID),
        ({"from": 0x7FF, "to": 0x900, "length": 1}, Status.NOT_PRESENT),
        ({"flags": 1, "from_domain": 9, "to": 0x900, "length": 1}, Status.NO_DOMAIN),
        ({"flags": 1, "from_domain": 1, "from": 7, "to": 0x900, "length": 1}, Status.NO_GRANT),
        ({"flags": 1, "from_domain": 1, "from": 1 << 40, "to": 0x900, "length": 1}, Status.NO_GRANT),
        ({"flags": 1, "from_domain": 0, "from": 0, "to": 0x900, "length": 1}, Status.NO_GRANT),
        ({"flags": 1, "from_domain": 1, "from": 0, "to": 0x900, "length": 1}, Status.INVALID),
        ({"flags": 2, "from": GFN, "to_domain": 1, "to": 0, "length": 1}, Status.NOT_PERMITTED),
        ({"from": GFN, "to": GFN + 1, "length": 1}, Status.NOT_PERMITTED),
        ({"from": GFN, "to": GFN, "length": 1, "from_domain": 9, "to_domain": 9}, Status.OK),
    ],
)
def test_copy_refuses_in_order(
    hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall, fields: dict[str, int], status: Status
) -> None:
    for rights in (R, RW):
        grant(hv, guest_call, one, rights=rights)
    guest_call(hv, two, "memory.protect", first=GFN + 1, count=1, rights=R)
    assert guest_call(hv, two, "grant.copy", **fields) == (status, 1 if status is Status.OK else 0)


def test_copies_go_to_and_from_granted_pages(hv: Hypervisor, one: VCpu, two: VCpu, guest_call: GuestCall) -> None:
    ref = grant(hv, guest_call, one)
    memory, theirs = hv.machine.memory, guest_address(hv.domains[1], GFN)
    mine = guest_address(hv.domains[2], GFN)
    memory.write(theirs, b"abcdefgh")
    memory.write(mine, b"12345678")
    fields = {"flags": 1, "from_domain": 1, "from": ref, "to": GFN}
    assert guest_call(hv, two, "grant.copy", **fields, from_offset=2, to_offset=4, length=3) == (Status.OK, 3)
    assert memory.read(mine, 8) == b"1234cde8"
    fields = {"flags": 2, "to_domain": 1, "to": ref, "from": GFN}
    assert guest_call(hv, two, "grant.copy", **fields, length=4096) == (Status.OK, 4096)
    assert memory.read(theirs, 8) == b"1234cde8"


def test_a_copy_onto_itself_is_a_move(hv: Hypervisor, two: VCpu, guest_call: GuestCall) -> None:
    memory, page = hv.machine.memory, guest_address(hv.domains[2], GFN)
    memory.write(page, b"abcdefgh")
    fields = {"from": GFN, "to": GFN, "from_offset": 0, "to_offset": 2, "length": 6}
    assert guest_call(hv, two, "grant.copy", **fields) == (Status.OK, 6)
    assert memory.read(page, 8) == b"ababcdef"


@pytest.mark.parametrize("seed", range(8))
def test_random_histories_keep_every_count(hv: Hypervisor, guest_call: GuestCall, audit: Audit, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        vcpu = rng.choice(hv.machine.vcpus)
        if vcpu.runnable:
            continue
        make = rng.choice(("create", "revoke", "map", "map", "unmap", "copy", "decrease"))
        domains, refs = (0, 1, 2, SELF), range(6)
        if make == "create":
            fields = {"gfn": 0x38 + rng.randrange(8), "to": rng.choice(domains), "rights": rng.choice((R, RW))}
        elif make == "revoke":
            fields = {"ref": rng.choice(refs)}
        elif make == "map":
            fields = {"granter": rng.choice(domains), "ref": rng.choice(refs), "flags": rng.randrange(1, 8)}
            fields |= {"gfn": rng.randrange(0x100, 0x800, 0x80), "iova": rng.randrange(4) << rng.choice((12, 30))}
        elif make == "unmap":
            fields = {"handle": rng.randrange(4), "count": rng.randrange(1, 4), "flags": rng.randrange(1, 4)}
        elif make == "copy":
            fields = {"flags": rng.randrange(4), "from_domain": rng.choice(domains), "to_domain": rng.choice(domains)}
            fields |= {"from": rng.randrange(0x40), "to": 0x38 + rng.randrange(8), "length": 64}
        else:
            fields = {"first": 0x38 + rng.randrange(8), "count": 1}
        guest_call(hv, vcpu, "memory.decrease" if make == "decrease" else f"grant.{make}", **fields)
    audit(hv)
