"""Booted machines, calls as a guest makes them, and an audit of all that the hypervisor keeps, from its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_STRUCT, ARGUMENT_GFN, WORLDS_BY_NAME, argument_page
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import boot, guest_address
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.hypervisor.memory.frames import OWNER_HYPERVISOR, OWNER_NONE, Frame, FrameState
from hvfuzz.hypervisor.memory.table_pool import POISON
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.cpu.registers import RAX, Reg
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
Audit = Callable[[Hypervisor], None]
ZERO_PAGE = bytes(PAGE_SIZE)
FOREIGN = 1 << 53
ADDRESS = 0xF_FFFF_FFFF_F000


@pytest.fixture
def hv() -> Hypervisor:
    """The world "pair", just booted: dom1 has device 0."""
    return boot(WORLDS_BY_NAME["pair"])


def _guest_call(hv: Hypervisor, vcpu: VCpu, call: str, /, **fields: Any) -> tuple[Status, int]:
    """Make the call `call` by VMCALL: its struct in the argument page; values that are sequences as u64 arrays."""
    declaration = ABI.by_name[call]
    layout = declaration.layouts[hv.domains[vcpu.domain].version]
    page = guest_address(hv.domains[vcpu.domain], ARGUMENT_GFN + vcpu.index)
    array = ARG_ARRAYS
    values = []
    for field in layout.fields:
        value = fields.pop(field.name, field.default)
        if isinstance(value, Sequence):
            width = field.kind.element.width if field.kind.element else 8
            data = b"".join(element.to_bytes(width, "little") for element in value)
            hv.machine.memory.write(page + array, data)
            value, array = argument_page(vcpu.index) + array, array + len(data) + 7 & ~7
        values.append(value)
    assert not fields, f"{call} has no {fields}"
    hv.machine.memory.write(page + ARG_STRUCT, layout.header + layout.body.pack(*values))
    vcpu.regs[RAX] = declaration.number
    vcpu.regs[Reg.RDI] = argument_page(vcpu.index) + ARG_STRUCT
    vcpu.vmcall()
    status = Status.from_word(vcpu.regs[RAX])
    assert status is not None
    assert status in (Status.OK, *declaration.errors, Status.NOT_PERMITTED, Status.NO_CALL, Status.FAULT)
    return status, vcpu.regs[Reg.RDX]


@pytest.fixture(scope="session")
def guest_call() -> GuestCall:
    """`guest_call(hv, vcpu, "memory.populate", first=0x200, count=1)` -> (status, result)."""
    return _guest_call


class Leaf(NamedTuple):
    """One present leaf, as the hardware would find it."""

    page: int
    hfn: int
    rights: int
    level: int
    foreign: bool


def _walk(hv: Hypervisor, table: int, level: int, base: int, tables: list[int], top: bool = True) -> Iterator[Leaf]:
    words = hv.machine.memory.words
    tables.append(table >> PAGE_SHIFT)
    entries = [words[(table >> 3) + index] for index in range(512)]
    assert top or any(entries), f"empty table {table:#x}"
    for index, entry in enumerate(entries):
        page = base + (index << 9 * (level - 1))
        if not entry:
            continue
        if level > 1 and not entry & 0x80:
            yield from _walk(hv, entry & ADDRESS, level - 1, page, tables, False)
            continue
        for offset in range(1 << 9 * (level - 1)):
            hfn = ((entry & ADDRESS) >> PAGE_SHIFT) + offset
            yield Leaf(page + offset, hfn, entry & 7, level, bool(entry & FOREIGN))


def stage2_leaves(hv: Hypervisor, domain: int, tables: list[int] | None = None) -> dict[int, Leaf]:
    """gfn -> leaf of a domain's EPT, read from memory by code of the tests' own."""
    root = hv.domains[domain].stage2.root
    return {leaf.page: leaf for leaf in _walk(hv, root, 4, 0, [] if tables is None else tables)}


def dma_leaves(hv: Hypervisor, domain: int, tables: list[int] | None = None) -> dict[int, Leaf]:
    """I/O page -> leaf of a domain's second-level tables."""
    root = hv.domains[domain].dma.root
    return {leaf.page: leaf for leaf in _walk(hv, root, 3, 0, [] if tables is None else tables)}


@pytest.fixture(scope="session")
def leaves() -> Callable[[Hypervisor, int], dict[int, Leaf]]:
    """`leaves(hv, domain)`: the EPT's leaves."""
    return stage2_leaves


@pytest.fixture(scope="session")
def device_leaves() -> Callable[[Hypervisor, int], dict[int, Leaf]]:
    """`device_leaves(hv, domain)`: the leaves of the IOMMU table."""
    return dma_leaves


def _audit(hv: Hypervisor) -> None:
    """Recompute every count, owner and state from tables and domains, and compare; no cache may know more."""
    maps: Counter[int] = Counter()
    pins: Counter[int] = Counter()
    grants: Counter[int] = Counter()
    table_owner: dict[int, int] = {hv.iommu.root >> PAGE_SHIFT: OWNER_HYPERVISOR}
    table_owner |= {table >> PAGE_SHIFT: OWNER_HYPERVISOR for table in hv.iommu.buses.values()}
    table_owner[hv.msr_bitmap >> PAGE_SHIFT] = OWNER_HYPERVISOR
    pool_owner: dict[int, int] = {}
    owned: dict[int, int] = {}
    for domain in hv.domains:
        tables: list[int] = []
        host, device = stage2_leaves(hv, domain.id, tables), dma_leaves(hv, domain.id, tables)
        assert len(set(tables)) == len(tables)
        table_owner |= dict.fromkeys(tables, domain.id)
        pool_owner |= dict.fromkeys(domain.pool, domain.id)
        maps.update(leaf.hfn for leaf in (*host.values(), *device.values()))
        owned |= {leaf.hfn: domain.id for leaf in host.values() if not leaf.foreign}
        grants.update(grant.frame for grant in domain.grants if grant)
        pins.update(
            mapping.frame for mapping in domain.handles if mapping for _ in range(mapping.host + mapping.device)
        )
        _audit_caches(hv, domain.stage2.root, domain.dma.domain_id, host, device)
    free = 0
    for hfn in range(hv.frames.count):
        frame = hv.frames.frame(hfn)
        is_free = bool(hv.allocator.blocks[hfn >> 9] >> (hfn & 511) & 1)
        assert is_free == (frame.state == FrameState.FREE), hex(hfn)
        assert (frame.maps, frame.pins, frame.grants) == (maps[hfn], pins[hfn], grants[hfn]), hex(hfn)
        if is_free:
            free += 1
            assert frame == Frame(OWNER_NONE, FrameState.FREE, 0, 0, 0)
            assert hv.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) == ZERO_PAGE, hex(hfn)
        elif hfn in table_owner:
            assert frame == Frame(table_owner[hfn], FrameState.TABLE, 0, 0, 0), hex(hfn)
        elif hfn in pool_owner:
            assert frame == Frame(pool_owner[hfn], FrameState.POOL, 0, 0, 0), hex(hfn)
            assert hv.machine.memory.words[hfn << PAGE_SHIFT >> 3] == POISON
        elif hfn in owned:
            assert frame.owner == owned[hfn]
            assert frame.state == (FrameState.SHARED if frame.pins or frame.grants else FrameState.OWNED), hex(hfn)
        else:
            kept = any(hfn in region for region in hv.reserved.values())
            state = FrameState.RESERVED if kept else FrameState.HYPERVISOR
            assert (frame.owner, frame.state) == (OWNER_HYPERVISOR, state), hex(hfn)
    assert free == hv.allocator.available


def _audit_caches(hv: Hypervisor, root: int, domain_id: int, host: dict[int, Leaf], device: dict[int, Leaf]) -> None:
    tlb, iommu = hv.machine.tlb, hv.machine.iommu
    for (ep4ta, gfn), (hpa, rights, _) in tlb.guest_physical.items():
        if ep4ta == root:
            assert gfn in host, f"stale gfn {gfn:#x}"
            assert (hpa >> PAGE_SHIFT, rights) == (host[gfn].hfn, host[gfn].rights)
    for (_, _, ep4ta, _), (hpa, rights, _, _, _, gpa) in tlb.combined.items():
        if ep4ta == root:
            assert gpa >> PAGE_SHIFT in host, f"stale gpa {gpa:#x}"
            leaf = host[gpa >> PAGE_SHIFT]
            assert hpa >> PAGE_SHIFT == leaf.hfn
            assert not rights & ~leaf.rights
    for (did, page), (hpa, rights) in iommu.iotlb.items():
        if did == domain_id:
            assert page in device, f"stale device page {page:#x}"
            assert (hpa >> PAGE_SHIFT, rights) == (device[page].hfn, device[page].rights)


@pytest.fixture(scope="session")
def audit() -> Audit:
    """`audit(hv)` asserts that counts, owners, states, pools and caches are what the tables say."""
    return _audit
