"""The frame table: words in emulated memory, counts that neither wrap nor go below zero, states that follow them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import WORLDS
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.host import HostArray, HostBug, HostFault, Work
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.memory.frames import COUNT_MASK, Frame, FrameState

HFN = 3000


def test_a_word_lies_in_memory_as_the_seam_says(hv: Hypervisor) -> None:
    hv.frames.assign(HFN, 2, FrameState.OWNED)
    for count in (hv.frames.add_map, hv.frames.add_map, hv.frames.add_pin, hv.frames.add_grant):
        count(HFN)
    word = hv.machine.memory.load64(0x1000 + 8 * HFN)
    assert word == 2 | FrameState.SHARED << 8 | 2 << 16 | 1 << 32 | 1 << 48
    assert hv.frames.frame(HFN) == Frame(2, FrameState.SHARED, 2, 1, 1)


@given(st.lists(st.sampled_from(("map", "pin", "grant")), max_size=30), st.data())
def test_counts_are_exact_and_sharing_is_pins_or_grants(kinds: list[str], data: st.DataObject) -> None:
    frames = _FRAMES
    frames.assign(HFN, 1, FrameState.OWNED)
    counts = dict.fromkeys(("map", "pin", "grant"), 0)
    for kind in kinds:
        if counts[kind] and data.draw(st.booleans()):
            getattr(frames, f"drop_{kind}")(HFN)
            counts[kind] -= 1
        else:
            getattr(frames, f"add_{kind}")(HFN)
            counts[kind] += 1
        shared = bool(counts["pin"] or counts["grant"])
        state = FrameState.SHARED if shared else FrameState.OWNED
        assert frames.frame(HFN) == Frame(1, state, counts["map"], counts["pin"], counts["grant"])


_FRAMES = boot(WORLDS[0]).frames


@pytest.mark.parametrize("kind", ["map", "pin", "grant"])
def test_a_count_out_of_range_is_a_bug_of_the_host(hv: Hypervisor, kind: str) -> None:
    add, drop = getattr(hv.frames, f"add_{kind}"), getattr(hv.frames, f"drop_{kind}")
    hv.frames.assign(HFN, 1, FrameState.OWNED)
    with pytest.raises(HostBug):
        drop(HFN)
    for _ in range(COUNT_MASK):
        add(HFN)
    with pytest.raises(HostBug):
        add(HFN)
    assert max(hv.frames.frame(HFN)[2:]) == COUNT_MASK


def test_blocks_count_as_their_frames_do(hv: Hypervisor) -> None:
    hv.frames.assign(2048, 1, FrameState.OWNED, 512)
    hv.frames.add_pin(2050)
    hv.frames.add_block_map(2048)
    assert all(hv.frames.frame(hfn).maps == 1 for hfn in range(2048, 2560))
    assert hv.frames.frame(2047).maps == hv.frames.frame(2560).maps == 0
    hv.frames.drop_map(2559)
    with pytest.raises(HostBug):
        hv.frames.drop_block_map(2048)
    hv.frames.add_map(2559)
    hv.frames.drop_block_map(2048)
    assert hv.frames.frame(2050) == Frame(1, FrameState.SHARED, 0, 1, 0)


def test_table_states_do_not_follow_counts(hv: Hypervisor) -> None:
    hv.frames.assign(HFN, 1, FrameState.TABLE)
    hv.frames.add_pin(HFN)
    assert hv.frames.frame(HFN).state == FrameState.TABLE


@pytest.mark.parametrize("hfn", [-1, 4096, 1 << 60])
def test_a_frame_that_does_not_exist_is_a_host_fault(hv: Hypervisor, hfn: int) -> None:
    for action in (hv.frames.word, hv.frames.add_map, hv.frames.owner):
        with pytest.raises(HostFault):
            action(hfn)


@pytest.mark.parametrize("hpa", [-8, 4, 16 << 20, 1 << 64])
def test_host_words_are_checked(hv: Hypervisor, hpa: int) -> None:
    with pytest.raises(HostFault):
        hv.host.read64(hpa)
    with pytest.raises(HostFault):
        hv.host.write64(hpa, 0)


def test_host_ranges_are_checked(hv: Hypervisor) -> None:
    size = hv.machine.memory.size
    for hpa, length in ((-1, 1), (size, 1), (size - 4, 8), (0, -1)):
        with pytest.raises(HostFault):
            hv.host.read(hpa, length)
    with pytest.raises(HostFault):
        hv.host.write(size - 1, b"12")
    with pytest.raises(HostFault):
        hv.host.fill(4095, 0, 2)
    assert hv.host.read(size, 0) == b""


def test_a_watcher_hears_of_every_host_access_from_then_on(hv: Hypervisor) -> None:
    class Listener(Observer):
        __slots__ = ("heard",)

        def __init__(self) -> None:
            self.heard: list[tuple[int, int, bool]] = []

        def host_access(self, hpa: int, size: int, write: bool) -> None:
            self.heard.append((hpa, size, write))

    listener = Listener()
    hv.host.read64(8)
    hv.observer = listener
    assert hv.observer is listener
    hv.host.read64(16)
    hv.host.write64(0x80_0000, 1)
    hv.host.read(0x80_0000, 100)
    hv.host.fill(0x800, 0, 2)
    assert listener.heard == [(16, 8, False), (0x80_0000, 8, True), (0x80_0000, 100, False), (0x80_0000, 8192, True)]
    hv.observer = Observer()
    hv.host.read64(24)
    assert len(listener.heard) == 4


def test_arrays_of_the_host_have_no_negative_index_and_no_end_to_run_over() -> None:
    work = Work()
    array: HostArray[int | None] = HostArray([1, None, 3], work)
    for index in (-1, 3, 1 << 40):
        with pytest.raises(HostFault):
            array[index]
        with pytest.raises(HostFault):
            array[index] = 1
    assert (array[0], array[1], array[2]) == (1, None, 3)
    assert array.lowest_free() == 1
    array[1] = 2
    assert array.lowest_free() == -1
    assert array == [1, 2, 3]
    assert work.units >= 12
