"""Guest memory from host context: which ranges a guest may name, how they are fetched, and what raw copies trust."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START, PT_KERNEL_GFN, USER_BASE
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.mmu.paging import CR4_SMAP

TOP = 1 << 64
PAGE = DIRECT_MAP + 0x40 * PAGE_SIZE
UNMAPPED = DIRECT_MAP + 0x300 * PAGE_SIZE  # in the direct map, but there is no RAM behind it
EDGES = (0, 1 << 47, HYPERVISOR_HOLE_START, HYPERVISOR_HOLE_END, TOP)


class Copies(Observer):
    """Notes the guest copies."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, bool]] = []

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        self.seen.append((gva, size, write))


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


def fill(hv: Hypervisor, gfn: int, data: bytes, offset: int = 0) -> None:
    hv.machine.memory.write(guest_address(hv.domains[1], gfn, offset), data)


def drop_entry(hv: Hypervisor, gfn: int) -> None:
    """The guest unmaps page `gfn` of its direct map."""
    hv.machine.memory.store64(guest_address(hv.domains[1], PT_KERNEL_GFN, 8 * gfn), 0)


@given(
    st.sampled_from(EDGES).flatmap(lambda edge: st.integers(max(edge - 40, 0), min(edge + 40, TOP - 1))),
    st.integers(0, 64),
)
def test_a_range_is_ok_when_every_byte_of_it_is(gva: int, size: int) -> None:
    def may_be_named(address: int) -> bool:
        canonical = address < 1 << 47 or TOP - (1 << 47) <= address < TOP
        return canonical and not HYPERVISOR_HOLE_START <= address < HYPERVISOR_HOLE_END

    assert guest_access.guest_range_ok(gva, size) == all(may_be_named(gva + i) for i in range(size))


def test_a_fetch_is_counted_logged_and_observed(hv: Hypervisor, vcpu: VCpu) -> None:
    hv.observer = copies = Copies()
    fill(hv, 0x40, b"sixteen bytes ok", 8)
    assert guest_access.copy_from_guest(hv, vcpu, PAGE + 8, 16) == b"sixteen bytes ok"
    fetches = hv.machine.fetches
    assert fetches.count == 1
    assert fetches.log == [(vcpu.id, PAGE + 8, guest_address(hv.domains[1], 0x40, 8), 16)]
    assert copies.seen == [(PAGE + 8, 16, False)]


def test_a_fetch_across_a_page_is_one_fetch_of_two_pieces(hv: Hypervisor, vcpu: VCpu) -> None:
    fill(hv, 0x40, b"abcd", PAGE_SIZE - 4)
    fill(hv, 0x41, b"efgh")
    assert guest_access.copy_from_guest(hv, vcpu, PAGE + PAGE_SIZE - 4, 8) == b"abcdefgh"
    assert hv.machine.fetches.count == 1
    assert [size for *_, size in hv.machine.fetches.log] == [4, 4]


def test_nothing_is_fetched_for_a_range_of_no_length(hv: Hypervisor, vcpu: VCpu) -> None:
    assert guest_access.copy_from_guest(hv, vcpu, HYPERVISOR_HOLE_START, 0) == b""
    assert guest_access.writable(hv, vcpu, HYPERVISOR_HOLE_START, 0)
    assert hv.machine.fetches.count == 0


@pytest.mark.parametrize("gva", [UNMAPPED, UNMAPPED - 4, HYPERVISOR_HOLE_START, 1 << 47, TOP - 4, 0x1000, TOP - 8])
def test_what_is_not_there_is_a_value_and_leaves_no_fault_behind(hv: Hypervisor, vcpu: VCpu, gva: int) -> None:
    vcpu.cr2 = 0x1234
    assert guest_access.copy_from_guest(hv, vcpu, gva, 8) is None
    assert guest_access.copy_to_guest(hv, vcpu, gva, bytes(8)) is False
    assert not guest_access.writable(hv, vcpu, gva, 8)
    assert (vcpu.cr2, vcpu.pending_fault) == (0x1234, None)


def test_a_write_is_all_or_nothing(hv: Hypervisor, vcpu: VCpu) -> None:
    hv.observer = copies = Copies()
    drop_entry(hv, 0x41)
    fill(hv, 0x40, b"....", PAGE_SIZE - 4)
    assert not guest_access.copy_to_guest(hv, vcpu, PAGE + PAGE_SIZE - 4, b"abcdefgh")
    assert hv.machine.memory.read(guest_address(hv.domains[1], 0x40, PAGE_SIZE - 4), 4) == b"...."
    assert copies.seen == []
    assert guest_access.copy_to_guest(hv, vcpu, PAGE + PAGE_SIZE - 4, b"abcd")
    assert copies.seen == [(PAGE + PAGE_SIZE - 4, 4, True)]


def test_a_write_across_a_page_lands_in_both(hv: Hypervisor, vcpu: VCpu) -> None:
    assert guest_access.copy_to_guest(hv, vcpu, PAGE + PAGE_SIZE - 3, b"abcdefgh")
    assert guest_access.copy_from_guest(hv, vcpu, PAGE + PAGE_SIZE - 3, 8) == b"abcdefgh"


def test_read_only_pages_are_not_writable(hv: Hypervisor, vcpu: VCpu) -> None:
    entry = guest_address(hv.domains[1], PT_KERNEL_GFN, 8 * 0x40)
    hv.machine.memory.store64(entry, hv.machine.memory.load64(entry) & ~2)
    assert guest_access.copy_from_guest(hv, vcpu, PAGE, 8) == bytes(8)
    assert not guest_access.writable(hv, vcpu, PAGE, 8)


def test_user_pages_are_reached_in_spite_of_smap(hv: Hypervisor, vcpu: VCpu) -> None:
    vcpu.cr4 |= CR4_SMAP
    assert guest_access.copy_from_guest(hv, vcpu, USER_BASE, 8) == bytes(8)


def test_the_racing_vcpu_acts_before_the_fetch_is_translated(hv: Hypervisor, vcpu: VCpu) -> None:
    hv.machine.fetches.arm(1, lambda: drop_entry(hv, 0x40))
    hv.machine.tlb.set_capacity(0)
    assert guest_access.copy_from_guest(hv, vcpu, PAGE, 8) == bytes(8)
    assert guest_access.copy_from_guest(hv, vcpu, PAGE, 8) is None


def test_raw_copies_in_the_hole_reach_host_memory(hv: Hypervisor, vcpu: VCpu) -> None:
    """Which is why they must never be made with an address that was not checked."""
    frame_words = hv.frames.base
    raw = guest_access.raw_copy_from_guest(hv, vcpu, HYPERVISOR_HOLE_START + frame_words, 8)
    assert raw == hv.machine.memory.read(frame_words, 8)
    assert guest_access.raw_writable(hv, vcpu, HYPERVISOR_HOLE_START + frame_words, 8)
    assert guest_access.raw_copy_to_guest(hv, vcpu, HYPERVISOR_HOLE_START + frame_words, b"smashed!")
    assert hv.machine.memory.read(frame_words, 8) == b"smashed!"


@pytest.mark.parametrize("copy", [guest_access.raw_copy_from_guest, guest_access.raw_copy_to_guest])
def test_raw_copies_beyond_host_memory_fault_in_the_host(hv: Hypervisor, vcpu: VCpu, copy: Any) -> None:
    with pytest.raises(HostFault):
        copy(hv, vcpu, HYPERVISOR_HOLE_END - 8, 8 if copy is guest_access.raw_copy_from_guest else bytes(8))


def test_raw_addresses_wrap_as_pointers_do(hv: Hypervisor, vcpu: VCpu) -> None:
    fill(hv, 0x40, b"wrapped.")
    assert guest_access.raw_copy_from_guest(hv, vcpu, PAGE + TOP, 8) == b"wrapped."
