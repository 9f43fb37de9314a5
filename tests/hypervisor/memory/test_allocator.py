"""The allocator: deterministic, exact, scrubbing; a check chooses what a step then takes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.host import HostBug, HostFault
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.memory.allocator import HEAP_CANARY, HEAP_NUMBER
from hvfuzz.hypervisor.memory.frames import OWNER_HYPERVISOR, OWNER_NONE, Frame, FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE

Audit = Callable[[Hypervisor], None]


class Ledger(Observer):
    """What the allocator announces."""

    __slots__ = ("live",)

    def __init__(self) -> None:
        self.live: dict[int, tuple[int, int]] = {}

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        assert hfn not in self.live
        self.live[hfn] = (owner, state)

    def frame_freed(self, hfn: int) -> None:
        del self.live[hfn]


def test_lowest_first_and_back_again(hv: Hypervisor) -> None:
    first = hv.allocator.choose(1)
    assert first is not None
    hfn = hv.allocator.alloc_page(1, FrameState.OWNED)
    assert hfn == first[0]
    assert hv.frames.frame(hfn) == Frame(1, FrameState.OWNED, 0, 0, 0)
    assert hv.allocator.alloc_page(2, FrameState.OWNED) == hfn + 1
    hv.allocator.free_page(hfn)
    assert hv.frames.frame(hfn) == Frame(OWNER_NONE, FrameState.FREE, 0, 0, 0)
    assert hv.allocator.alloc_page(2, FrameState.OWNED) == hfn


def test_top_down_takes_from_the_other_end(hv: Hypervisor) -> None:
    assert hv.allocator.choose(3, top_down=True) == (4095, 4094, 4093)
    assert hv.allocator.choose_blocks(2, top_down=True) == (4096 - 512, 4096 - 1024)
    blocks = hv.allocator.choose_blocks(2)
    assert blocks is not None
    assert blocks[1] == blocks[0] + 512


def test_choosing_changes_nothing_and_says_when_there_is_too_little(hv: Hypervisor, audit: Audit) -> None:
    available = hv.allocator.available
    everything = hv.allocator.choose(available)
    assert everything is not None
    assert len(set(everything)) == available
    assert hv.allocator.choose(available + 1) is None
    blocks = hv.allocator.choose_blocks(6)
    assert blocks is not None
    assert hv.allocator.choose_blocks(7) is None
    assert hv.allocator.available == available
    audit(hv)


def test_what_is_freed_is_zero(hv: Hypervisor, audit: Audit) -> None:
    blocks = hv.allocator.choose_blocks(1)
    assert blocks is not None
    page, block = hv.allocator.alloc_page(1, FrameState.OWNED), blocks[0]
    hv.allocator.take_block(block, 1, FrameState.OWNED)
    heap = hv.allocator.alloc_heap_page()
    for hfn in (page, block, block + 511, heap):
        hv.host.fill(hfn, 0xAAAA)
    hv.allocator.free_page(page)
    hv.allocator.free_block(block)
    hv.allocator.free_heap_page(heap)
    audit(hv)  # which looks into each free frame


def test_heap_pages_carry_a_secret_of_their_own(hv: Hypervisor) -> None:
    seen = set()
    for _ in range(5):
        hfn = hv.allocator.alloc_heap_page()
        assert hv.frames.frame(hfn) == Frame(OWNER_HYPERVISOR, FrameState.HYPERVISOR, 0, 0, 0)
        canary = hv.host.read64((hfn << PAGE_SHIFT) + HEAP_CANARY)
        assert canary == hv.allocator.heap_canary(hv.host.read64((hfn << PAGE_SHIFT) + HEAP_NUMBER))
        seen.add(canary)
        hv.allocator.free_heap_page(hfn)
        assert hv.machine.memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert len(seen) == 5


def test_the_header_is_there_when_a_heap_page_is_announced(hv: Hypervisor) -> None:
    class Reader(Observer):
        __slots__ = ("canaries",)

        def __init__(self) -> None:
            self.canaries: list[int] = []

        def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
            self.canaries.append(hv.machine.memory.load64(hfn << PAGE_SHIFT))

    reader = Reader()
    hv.observer = reader
    number = hv.allocator.heap_allocations
    hv.allocator.alloc_heap_page()
    assert reader.canaries == [hv.allocator.heap_canary(number)]


def test_freeing_or_taking_twice_is_a_bug(hv: Hypervisor) -> None:
    hfn = hv.allocator.alloc_page(1, FrameState.OWNED)
    with pytest.raises(HostBug):
        hv.allocator.take(hfn, 1, FrameState.OWNED)
    hv.allocator.free_page(hfn)
    for wrong in (hfn, -1, 4096):
        with pytest.raises((HostBug, HostFault)):
            hv.allocator.free_page(wrong)
    with pytest.raises(HostBug):
        hv.allocator.take_block(0, 1, FrameState.OWNED)


def test_exhaustion_is_a_value(hv: Hypervisor) -> None:
    while hv.allocator.alloc_page(1, FrameState.OWNED) >= 0:
        pass
    assert hv.allocator.available == 0
    assert hv.allocator.alloc_heap_page() == -1
    assert hv.allocator.choose(0) == ()
    assert hv.allocator.choose(1) is None
    assert hv.allocator.choose_blocks(1) is None
    hv.allocator.free_page(4095)
    assert hv.allocator.choose(1) == (4095,)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_keeps_the_books(seed: int, audit: Audit) -> None:
    rng = random.Random(seed)
    hv = boot(WORLDS[3])
    ledger = Ledger()
    hv.observer = ledger
    pages: list[int] = []
    blocks: list[int] = []
    start = hv.allocator.available
    for _ in range(300):
        match rng.randrange(4):
            case 0:
                pages.append(hv.allocator.alloc_heap_page())
            case 1 if pages:
                hv.allocator.free_heap_page(pages.pop(rng.randrange(len(pages))))
            case 2:
                chosen = hv.allocator.choose_blocks(1, top_down=rng.random() < 0.5)
                if chosen:
                    hv.allocator.take_block(chosen[0], OWNER_HYPERVISOR, FrameState.HYPERVISOR)
                    blocks.append(chosen[0])
            case 3 if blocks:
                hv.allocator.free_block(blocks.pop())
        assert hv.allocator.available == start - len(pages) - 512 * len(blocks)
    assert set(ledger.live) == {*pages, *(block + n for block in blocks for n in range(512))}
    audit(hv)
