"""The oracle `ownership`: every access or mapping that is not allowed is reported, and legal sharing is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import FOREIGN
from hvfuzz.machine.addresses import EXEC, PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.mmu.ept import EPTP_ACCESSED_DIRTY, LARGE
from hvfuzz.machine.vtd.legacy_mode import FPD, TT_SHIFT, TranslationType
from hvfuzz.oracles.shadow.changes import ADDRESS

GRANT = "r0 = grant.create(dom1, gfn=0x30, to=2, rights=R|W)"
LEAF = 6 << 3 | 7


@pytest.fixture
def own(watched: Callable[..., Any]) -> Any:
    return watched("ownership")


def leaf(frame: int, bits: int = LEAF) -> int:
    return frame << PAGE_SHIFT | bits


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        (FrameState.FREE, "free"),
        (FrameState.HYPERVISOR, "hypervisor"),
        (FrameState.TABLE, "table"),
        (FrameState.POOL, "pool"),
    ],
)
@pytest.mark.parametrize("dma", [False, True])
def test_leaf_that_names_a_frame_of_nobody(own: Any, state: FrameState, rule: str, dma: bool) -> None:
    own.run("device.dma_map(dom1, iova=0, gfn=0x30, count=1, rights=R)")
    assert own.poke(own.free_entry(1, 0x1F0, dma=dma), leaf(own.in_state(state))) == [f"ownership/{rule}"]


@pytest.mark.parametrize("bits", [LEAF, LEAF | FOREIGN, 6 << 3 | READ])
def test_leaf_that_names_another_domains_frame(own: Any, bits: int) -> None:
    assert own.poke(own.entry(1, 0x50), leaf(own.frame(2, 0x50), bits)) == ["ownership/foreign"]


def test_leaf_beyond_memory(own: Any) -> None:
    assert own.poke(own.entry(1, 0x50), leaf(own.memory.frames)) == ["ownership/nowhere"]


def test_leaf_beyond_the_address_width(own: Any) -> None:
    assert own.poke(own.entry(1, 0x50), leaf(own.frame(1, 0x50)) | 1 << 45) == ["ownership/nowhere"]


def test_large_leaf_over_somebody_elses_frames(own: Any) -> None:
    own.run("memory.populate(dom1, first=0x200, count=1, order=9)")
    own.run("memory.populate(dom2, first=0x200, count=1, order=9)")
    assert not own.rules
    mine, other = own.entry(1, 0x200), own.memory.load64(own.entry(2, 0x200)) >> PAGE_SHIFT
    assert own.poke(mine, leaf(other, LEAF | LARGE)) == ["ownership/foreign"]


def test_one_frame_within_a_large_leaf_changes_its_owner(own: Any) -> None:
    own.run("memory.populate(dom1, first=0x200, count=1, order=9)")
    frame = (own.memory.load64(own.entry(1, 0x200)) >> PAGE_SHIFT) + 77
    assert own.poke(own.word(frame), 2 | FrameState.OWNED << 8 | 1 << 16) == ["ownership/foreign"]


@pytest.mark.parametrize(
    ("word", "rule"), [(0xFF, "free"), (0x2FE, "table"), (0x1FE, "hypervisor"), (0x502, "pool"), (0x10302, "foreign")]
)
def test_frame_that_changes_its_use_while_it_is_mapped(own: Any, word: int, rule: str) -> None:
    assert own.poke(own.word(own.frame(1, 0x50)), word) == [f"ownership/{rule}"]


def test_grant_mappings_are_silent(own: Any) -> None:
    own.run(
        GRANT,
        "device.assign(dom0, device=1, to=2)",
        "r2 = grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, iova=0x5000, flags=HOST|DEVICE)",
        "store(dom2, gva=0xffff8800001f0008, size=8, value=5)",
        "device.dma_submit(dom2, device=1, from=0x5000, to=0x5100, length=64)",
        "grant.unmap(dom2, handle=r2, count=1, flags=DEVICE)",
        "load(dom2, gva=0xffff8800001f0008, size=8)",
        "grant.unmap(dom2, handle=r2, count=1, flags=HOST)",
        "grant.revoke(dom1, ref=r0)",
    )
    own.suite.audit()
    assert own.rules == []


@pytest.mark.parametrize(("bits", "dma"), [(6 << 3 | READ | WRITE, False), (READ | WRITE, True)])
def test_more_rights_than_the_grant_gives(own: Any, bits: int, dma: bool) -> None:
    own.run(GRANT, "grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, iova=0x5000, flags=HOST|DEVICE|READONLY)")
    entry = own.entry(2, 5 if dma else 0x1F0, dma=dma)
    assert own.poke(entry, leaf(own.frame(1, 0x30), bits) | FOREIGN) == ["ownership/rights"]


def test_execution_is_never_granted(own: Any) -> None:
    own.run(GRANT, "grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, flags=HOST)")
    assert own.poke(own.entry(2, 0x1F0), leaf(own.frame(1, 0x30)) | FOREIGN) == ["ownership/rights"]


def test_granted_frame_at_another_place(own: Any) -> None:
    own.run(GRANT, "grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, flags=HOST)")
    there = own.free_entry(2, 0x1F1)
    assert own.poke(there, leaf(own.frame(1, 0x30), 0x33) | FOREIGN) == ["ownership/foreign"]


def test_mapping_that_outlives_its_handle(own: Any) -> None:
    own.run(GRANT, "r1 = grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, flags=HOST)")

    def forget() -> None:
        own.suite.step(None)
        own.hv.domains[2].handles[0] = None

    assert own.during(forget) == ["ownership/foreign"]


def test_mapping_that_outlives_its_grant(own: Any) -> None:
    own.run(GRANT, "r1 = grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, flags=HOST)")

    def forget() -> None:
        own.suite.step(None)
        own.hv.domains[1].grants[0] = None

    assert own.during(forget) == ["ownership/foreign"]


def test_table_that_is_linked_twice(own: Any) -> None:
    table = next(h for h, t in own.shadow.tables.items() if t.space == 1 and t.level == 1)
    directory = next(h for h, t in own.shadow.tables.items() if t.space == 2 and t.level == 2)
    assert own.poke((directory << PAGE_SHIFT) + 8 * 5, leaf(table, 7)) == ["ownership/tree"]


@pytest.mark.parametrize("word", [0x501, 0x2FE, 0x202, 0x301])
def test_table_page_that_is_none(own: Any, word: int) -> None:
    table = next(h for h, t in own.shadow.tables.items() if t.space == 1 and t.level == 1)
    assert own.poke(own.word(table), word) == ["ownership/tree"]


def test_tables_below_a_new_link_are_followed(own: Any) -> None:
    """A guest page full of leaves becomes a table: both that and what it reaches are seen."""
    page = own.frame(1, 0x60)
    own.memory.store64((page << PAGE_SHIFT) + 8 * 3, leaf(own.in_state(FrameState.HYPERVISOR)))
    directory = next(h for h, t in own.shadow.tables.items() if t.space == 1 and t.level == 2)
    rules = own.poke((directory << PAGE_SHIFT) + 8 * 7, leaf(page, 7))
    assert sorted(rules) == ["ownership/hypervisor", "ownership/tree"]
    # What is written there later is watched, too.
    own.suite.findings.clear()
    assert own.poke((page << PAGE_SHIFT) + 8 * 9, leaf(own.in_state(FrameState.FREE))) == ["ownership/free"]


def test_context_entry_with_a_table_of_nobody(own: Any) -> None:
    low = (own.hv.iommu.buses[0]) + (own.machine.devices[0].bdf & 0xFF) * 16
    assert own.poke(low, own.frame(1, 0x50) << PAGE_SHIFT | 1) == ["ownership/context"]


def test_context_entry_with_a_domain_id_of_another(own: Any) -> None:
    low = (own.hv.iommu.buses[0]) + (own.machine.devices[0].bdf & 0xFF) * 16
    assert own.poke(low + 8, 1 | 3 << 8) == ["ownership/context"]


def test_access_through_a_translation_that_no_table_holds(own: Any) -> None:
    """The page is gone from the tables, the frame belongs to dom2 now, and dom1 still uses its TLB entry."""
    vcpu = own.machine.vcpus[1]
    gva = 0xFFFF_8800_0005_0000
    vcpu.load(gva, 8)
    key, cached = next((k, e) for k, e in own.machine.tlb.combined.items() if k[3] == gva >> PAGE_SHIFT)
    own.machine.tlb.combined[key] = (own.frame(2, 0x50) << PAGE_SHIFT, *cached[1:])
    assert own.during(lambda: vcpu.load(gva, 8)) == ["ownership/access"]


@pytest.mark.parametrize("access", [READ, WRITE])
def test_device_of_another_domain(own: Any, access: int) -> None:
    observe = own.machine.access_observer
    hpa = own.frame(2, 0x50) << PAGE_SHIFT
    assert own.during(lambda: observe(own.machine.devices[0], hpa, 8, access)) == ["ownership/access"]


def test_device_of_nobody(own: Any) -> None:
    hpa = own.frame(2, 0x50) << PAGE_SHIFT
    observe = own.machine.access_observer
    assert own.during(lambda: observe(own.machine.devices[1], hpa, 8, READ)) == ["ownership/access"]


def test_rights_of_a_mapping_bind_accesses(own: Any) -> None:
    own.run(GRANT, "grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, flags=HOST|READONLY)")
    hpa = own.frame(1, 0x30) << PAGE_SHIFT
    vcpu = own.hv.domains[2].vcpus[0]
    assert own.during(lambda: own.machine.access_observer(vcpu, hpa, 8, READ)) == []
    assert own.during(lambda: own.machine.access_observer(vcpu, hpa, 8, WRITE)) == ["ownership/access"]


def test_execution_in_a_granted_frame(own: Any) -> None:
    own.run(GRANT, "grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, flags=HOST)")
    hpa = own.frame(1, 0x30) << PAGE_SHIFT
    vcpu = own.hv.domains[2].vcpus[0]
    assert own.during(lambda: own.machine.access_observer(vcpu, hpa, 1, EXEC)) == ["ownership/access"]


@pytest.mark.parametrize("write", [False, True])
def test_copy_on_behalf_of_a_domain(own: Any, write: bool) -> None:
    vcpu = own.hv.domains[2].vcpus[0]
    hpa = own.frame(1, 0x30) << PAGE_SHIFT
    assert own.during(lambda: own.suite.guest_copy(vcpu, -1, hpa, 8, write)) == ["ownership/copy"]


def test_copy_of_granted_frames_is_silent(own: Any) -> None:
    trace = own.run(
        GRANT,
        "grant.copy(dom2, flags=SOURCE_REF, from_domain=1, to_domain=0, from=r0, to=0x50, length=64)",
        "grant.copy(dom2, flags=DEST_REF, from_domain=0, to_domain=1, from=0x50, to=r0, length=64)",
    )
    assert [outcome.status for outcome in trace.outcomes] == [0, 0, 0]
    assert own.rules == []


def test_a_virtual_cpu_on_the_tables_of_another_domain(own: Any) -> None:
    own.machine.vcpus[1].eptp = own.machine.vcpus[3].eptp
    own.suite.audit()
    assert own.rules == ["ownership/pointer"]


@pytest.mark.parametrize("size", [8, 16])
def test_copy_and_access_beyond_the_frame(own: Any, size: int) -> None:
    """dom2's frame that follows one of its own belongs to the next domain, or to nobody."""
    word = own.word(own.frame(2, 0x50) + 1)
    own.memory.store64(word, 1 | FrameState.OWNED << 8)
    own.memory.written.clear()
    vcpu = own.hv.domains[2].vcpus[0]
    hpa = (own.frame(2, 0x50) + 1 << PAGE_SHIFT) - 8
    own.during(lambda: own.suite.guest_copy(vcpu, -1, hpa, size, True))
    own.during(lambda: own.machine.access_observer(vcpu, hpa, size, WRITE))
    assert own.rules == (["ownership/copy", "ownership/access"] if size > 8 else [])


def test_grant_that_is_gone_though_nobody_counts_its_mappings(own: Any) -> None:
    own.run(GRANT, "r1 = grant.map(dom2, granter=1, ref=r0, gfn=0x1f0, flags=HOST)")
    grants = own.hv.domains[1].grants
    own.suite.step(None)
    grants[0] = grants[0]._replace(host_pins=0)
    assert own.during(lambda: None) == []

    def forget() -> None:
        own.suite.step(None)
        grants[0] = None

    assert own.during(forget) == ["ownership/foreign"]


@pytest.mark.parametrize(
    "line", ["mmio_read(dom2, device=0, register=0x30, size=8)", "mmio_write(dom0, device=1, size=4)"]
)
def test_registers_of_another_domains_device(own: Any, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    own.run(line, "mmio_read(dom1, device=0, register=0x30, size=8)")
    assert own.rules == []
    devices = own.machine.devices
    monkeypatch.setattr(exits, "emulated_device", lambda _hv, vcpu: devices[vcpu.vmcs.gpa >> 12 & 1])
    own.run(line)
    assert own.rules == ["ownership/mmio"]


@pytest.mark.parametrize("break_it", [lambda iommu: iommu.disable(), lambda iommu: iommu.enable(0x300000)])
def test_iommu_that_is_off_or_uses_another_root(own: Any, break_it: Callable[[Any], None]) -> None:
    break_it(own.machine.iommu)
    own.suite.audit()
    assert own.rules == ["ownership/context"]


@pytest.mark.parametrize(
    ("low", "high"),
    [(TranslationType.PASS_THROUGH << TT_SHIFT, 0), (1 << TT_SHIFT, 0), (FPD, 0), (1 << 4, 0), (0, 3), (0, 1 << 3)],
)
def test_context_entry(own: Any, low: int, high: int) -> None:
    """dom1's device: what it reaches is decided by each bit of its entry."""
    bdf = own.machine.devices[0].bdf
    root = own.machine.iommu.root_table
    at = (own.memory.load64(root + (bdf >> 8) * 16) & ADDRESS) + (bdf & 0xFF) * 16

    def change() -> None:
        own.memory.store64(at, own.memory.load64(at) ^ low)
        own.memory.store64(at + 8, own.memory.load64(at + 8) ^ high)

    assert own.during(change) == ["ownership/context"]


@pytest.mark.parametrize("wrong", [EPTP_ACCESSED_DIRTY, 6])
def test_ept_pointer(own: Any, wrong: int) -> None:
    """One that VM entry takes, but not the one that the domain was given."""
    own.machine.vcpus[1].eptp ^= wrong
    own.run("memory.protect(dom1, first=0x50, count=1, rights=R)")
    assert own.rules == ["ownership/pointer"]
