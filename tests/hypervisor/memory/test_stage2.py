"""Stage 2: leaves and tables in memory, splitting and merging, the pool, flushes, and the walk that re-reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.domains import Domain
from hvfuzz.hypervisor.core.host import HostBug, HostFault
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.hypervisor.memory.table_pool import POISON
from hvfuzz.hypervisor.memory.table_tree import RIGHTS, leaf_frame
from hvfuzz.machine.addresses import PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation

Audit = Callable[[Hypervisor], None]


@pytest.fixture
def domain(hv: Hypervisor) -> Domain:
    return hv.domains[1]


def add_pages(hv: Hypervisor, domain: Domain, first: int, count: int) -> list[int]:
    frames = [hv.allocator.alloc_page(domain.id, FrameState.OWNED) for _ in range(count)]
    for gfn, hfn in enumerate(frames, first):
        domain.stage2.map(gfn, hfn, RIGHTS)
    return frames


def add_block(hv: Hypervisor, domain: Domain, gfn: int) -> int:
    blocks = hv.allocator.choose_blocks(1)
    assert blocks is not None
    hv.allocator.take_block(blocks[0], domain.id, FrameState.OWNED)
    domain.stage2.map(gfn, blocks[0], RIGHTS, block=True)
    return blocks[0]


def reach(hv: Hypervisor, domain: Domain, gfn: int, access: int = READ) -> int:
    return hv.machine.mmu.translate_gpa(domain.stage2.eptp, gfn << PAGE_SHIFT, access) >> PAGE_SHIFT


def test_the_hardware_finds_what_is_mapped(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    frames = add_pages(hv, domain, 0x3FE, 4)  # across a table
    for gfn, hfn in enumerate(frames, 0x3FE):
        entry, level, _ = domain.stage2.lookup(gfn)
        assert reach(hv, domain, gfn) == hfn == leaf_frame(entry, level, gfn)
    assert domain.stage2.lookup(0x402)[0] == 0
    audit(hv)


def test_unmapping_flushes_counts_and_gives_the_table_back(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    pool = len(domain.pool)
    frames = add_pages(hv, domain, 0x400, 2)
    assert len(domain.pool) == pool - 1
    assert reach(hv, domain, 0x400) == frames[0]  # the TLB has it now
    for gfn, hfn in enumerate(frames, 0x400):
        assert domain.stage2.unmap(gfn)
        assert hv.frames.frame(hfn).maps == 0
        with pytest.raises(EptViolation):
            reach(hv, domain, gfn)
        hv.allocator.free_page(hfn)
    assert len(domain.pool) == pool
    audit(hv)


def test_a_part_of_a_block_is_split_off(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    pool = len(domain.pool)
    base = add_block(hv, domain, 0x200)
    assert len(domain.pool) == pool  # one leaf beside the table that is there
    assert reach(hv, domain, 0x2FF) == base + 0xFF
    assert domain.stage2.unmap(0x2FF)
    assert len(domain.pool) == pool - 1
    hv.allocator.free_page(base + 0xFF)
    with pytest.raises(EptViolation):
        reach(hv, domain, 0x2FF)
    assert reach(hv, domain, 0x3FF) == base + 0x1FF
    audit(hv)


def test_a_block_that_cannot_be_split_stays_whole(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    add_block(hv, domain, 0x200)
    saved = domain.pool[:]
    domain.pool.clear()
    before = domain.stage2.lookup(0x200)
    assert not domain.stage2.unmap(0x2FF)
    assert not domain.stage2.replace(0x2FF, 4000)
    assert not domain.stage2.protect(0x2FF, 1, READ)
    assert domain.stage2.lookup(0x200) == before
    domain.pool[:] = saved
    audit(hv)


def test_protecting_apart_and_alike_again_merges(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    pool = len(domain.pool)
    base = add_block(hv, domain, 0x200)
    assert domain.stage2.protect(0x210, 4, READ)
    assert len(domain.pool) == pool - 1
    audit(hv)
    with pytest.raises(EptViolation):
        reach(hv, domain, 0x211, WRITE)
    assert domain.stage2.protect(0x210, 2, RIGHTS)
    assert domain.stage2.lookup(0x210)[1] == 1
    assert domain.stage2.protect(0x212, 2, RIGHTS)
    assert domain.stage2.lookup(0x210)[1] == 2
    assert len(domain.pool) == pool
    assert reach(hv, domain, 0x213, WRITE) == base + 0x13
    audit(hv)


def test_a_whole_block_changes_its_rights_as_one_leaf(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    add_block(hv, domain, 0x200)
    assert reach(hv, domain, 0x205, WRITE)
    assert domain.stage2.protect(0x200, 512, READ)
    assert domain.stage2.lookup(0x200)[1] == 2
    with pytest.raises(EptViolation):
        reach(hv, domain, 0x205, WRITE)
    audit(hv)


def test_only_aligned_frames_in_a_row_merge(hv: Hypervisor, domain: Domain, audit: Audit) -> None:
    add_pages(hv, domain, 0x400, 512)  # frames in a row, but not aligned
    assert domain.stage2.protect(0x400, 512, READ)
    assert domain.stage2.lookup(0x400)[1] == 1
    base = add_block(hv, domain, 0x200)
    stranger = hv.allocator.alloc_page(domain.id, FrameState.OWNED)
    assert domain.stage2.replace(0x250, stranger)
    hv.allocator.free_page(base + 0x50)
    assert domain.stage2.protect(0x200, 512, READ)
    assert domain.stage2.lookup(0x200)[1] == 1
    audit(hv)


def test_the_walk_never_touches_a_table_that_its_visitor_freed(hv: Hypervisor, domain: Domain) -> None:
    class Pooled(Observer):
        """Accesses to pooled pages, other than the pool's own."""

        __slots__ = ("seen",)

        def __init__(self) -> None:
            self.seen: list[int] = []

        def host_access(self, hpa: int, size: int, write: bool) -> None:
            word = hv.machine.memory.load64(hv.frames.base + 8 * (hpa >> PAGE_SHIFT))
            if word >> 8 & 0xFF == FrameState.POOL:
                self.seen.append(hpa)

    add_block(hv, domain, 0x200)
    assert domain.stage2.protect(0x210, 1, READ)
    watcher = Pooled()
    hv.observer = watcher
    assert domain.stage2.protect(0x210, 1, RIGHTS)
    assert domain.stage2.lookup(0x210)[1] == 2
    assert watcher.seen == []


def test_a_walker_that_keeps_the_old_entry_is_seen(
    hv: Hypervisor, domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KVM arm64 a9f0e3d5a089, planted: what the test before looks for does happen."""
    touched: list[int] = []
    add_block(hv, domain, 0x200)
    assert domain.stage2.protect(0x210, 1, READ)
    monkeypatch.setattr("hvfuzz.hypervisor.memory.table_tree.TableTree.reload", lambda self, address, seen: seen)

    class Watcher(Observer):
        __slots__ = ()

        def host_access(self, hpa: int, size: int, write: bool) -> None:
            if hv.frames.base <= hpa < hv.frames.base + 8 * hv.frames.count:
                return
            word = hv.machine.memory.load64(hv.frames.base + 8 * (hpa >> PAGE_SHIFT))
            if word >> 8 & 0xFF == FrameState.POOL:
                touched.append(hpa)

    hv.observer = Watcher()
    domain.stage2.protect(0x210, 1, RIGHTS)
    assert touched


def test_pooled_pages_are_poison_to_hardware(hv: Hypervisor, domain: Domain) -> None:
    page = domain.pool[-1]
    assert hv.machine.memory.words[page << 9] == POISON
    with pytest.raises(EptMisconfiguration):
        hv.machine.mmu.translate_gpa(page << PAGE_SHIFT | 0x1E, 0x1000, READ)
    taken = domain.stage2.pool.take()
    assert taken == page
    assert not any(hv.machine.memory.words[page << 9 : (page << 9) + 512])
    domain.stage2.pool.put(taken)
    assert hv.frames.frame(page).state == FrameState.POOL


def test_broken_promises_are_bugs(hv: Hypervisor, domain: Domain) -> None:
    with pytest.raises(HostBug):
        domain.stage2.map(5, 4000, RIGHTS)
    with pytest.raises(HostBug):
        domain.stage2.unmap(0x300)
    with pytest.raises(HostBug):
        domain.stage2.unmap_block(0)
    for gfn in (-1, 1 << 36):
        with pytest.raises(HostFault):
            domain.stage2.lookup(gfn)
    domain.pool.clear()
    with pytest.raises(HostBug):
        domain.stage2.map(0x600, 4000, RIGHTS)


def test_tables_needed_is_what_mapping_takes() -> None:
    rng = random.Random(3)
    for _ in range(20):
        hv = boot(WORLDS[3])
        domain = hv.domains[1]
        gfns = sorted({rng.choice((0x200, 0x3F0, 0x5FF, 0x40000, 0x800000)) + rng.randrange(20) for _ in range(6)})
        needed = domain.stage2.tables_needed(gfns)
        before = len(domain.pool)
        for gfn in gfns:
            add_pages(hv, domain, gfn, 1)
        assert before - len(domain.pool) == needed


class Model:
    """gfn -> (hfn, rights), beside the stage 2 that is tested."""

    def __init__(self, hv: Hypervisor, domain: Domain) -> None:
        self.hv, self.domain, self.stage2 = hv, domain, domain.stage2
        self.pages: dict[int, tuple[int, int]] = {}
        for gfn in range(256):
            self.pages[gfn] = (leaf_frame(*self.stage2.lookup(gfn)[:2], gfn), RIGHTS)

    def step(self, rng: random.Random) -> None:
        gfn = rng.choice((0x1F8, 0x200, 0x2FF, 0x3FC, 0x400)) + rng.randrange(8)
        match rng.randrange(5):
            case 0 if gfn not in self.pages:
                hfn = self.hv.allocator.alloc_page(self.domain.id, FrameState.OWNED)
                self.stage2.map(gfn, hfn, RIGHTS)
                self.pages[gfn] = (hfn, RIGHTS)
            case 1 if gfn in self.pages:
                assert self.stage2.unmap(gfn)
                self.hv.allocator.free_page(self.pages.pop(gfn)[0])
            case 2 if not any(page in self.pages for page in range(0x200, 0x400)):
                base = add_block(self.hv, self.domain, 0x200)
                self.pages |= {0x200 + n: (base + n, RIGHTS) for n in range(512)}
            case 3 if gfn in self.pages:
                new = self.hv.allocator.alloc_page(self.domain.id, FrameState.OWNED)
                assert self.stage2.replace(gfn, new)
                old, rights = self.pages[gfn]
                self.hv.allocator.free_page(old)
                self.pages[gfn] = (new, rights)
            case 4:
                self.protect(gfn, rng.choice((1, 3, 8, 512)), rng.choice((1, 3, 7)))

    def protect(self, first: int, count: int, rights: int) -> None:
        span = range(first, first + count)
        if all(gfn in self.pages for gfn in span):
            assert self.stage2.protect(first, count, rights)
            self.pages |= {gfn: (self.pages[gfn][0], rights) for gfn in span}


@pytest.mark.parametrize("seed", range(6))
def test_any_history_maps_what_a_dictionary_would(
    seed: int, audit: Audit, leaves: Callable[[Hypervisor, int], dict[int, Any]]
) -> None:
    rng = random.Random(seed)
    hv = boot(WORLDS[3])
    model = Model(hv, hv.domains[1])
    for number in range(120):
        model.step(rng)
        for gfn in rng.sample(sorted(model.pages), 5):
            assert reach(hv, hv.domains[1], gfn) == model.pages[gfn][0]
        if number % 20 == 0:
            audit(hv)
    found = {leaf.page: (leaf.hfn, leaf.rights) for leaf in leaves(hv, 1).values()}
    assert found == model.pages
    audit(hv)


def test_a_lookup_reads_as_many_words_as_there_are_levels(hv: Hypervisor, domain: Domain) -> None:
    before = hv.work.units
    domain.stage2.lookup(5)
    assert hv.work.units - before == 4
    assert isinstance(domain.stage2, Stage2)


def test_leaves_are_what_lookup_finds_page_by_page(hv: Hypervisor, domain: Domain) -> None:
    add_pages(hv, domain, 0x3F0, 3)
    add_block(hv, domain, 0x400)
    for first, count in ((0, 1), (0xF0, 0x700), (0x3F1, 0x20), (0x5FF, 2), (0x3FFFF, 2)):
        expected = [(gfn, *domain.stage2.lookup(gfn)[:2]) for gfn in range(first, first + count)]
        assert list(domain.stage2.leaves(first, count)) == expected
