"""Coalesced MMIO: writes are queued in the guest's memory, whatever the guest has made of the ring's indices."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import COALESCED, COALESCED_GFN, DIRECT_MAP, MMIO_BASE, MMIO_SIZE, PT_KERNEL_GFN
from hvfuzz.hypervisor.core.boot import guest_address
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.devices.coalesced_mmio import ENTRY, HEADER, LAST, RING, SLOTS, free_slot
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, Gva
from hvfuzz.machine.mmu.paging import RW, P
from hvfuzz.oracles.exits import coalesced_ring

WINDOW = DIRECT_MAP + MMIO_BASE + COALESCED * MMIO_SIZE
PAGE = MMIO_BASE + COALESCED * MMIO_SIZE


def ring(hv: Hypervisor, domain: int = 1) -> bytes:
    """The domain's page with the ring."""
    return hv.machine.memory.read(guest_address(hv.domains[domain], COALESCED_GFN), PAGE_SIZE)


def write(hv: Hypervisor, offset: int, size: int, value: int, domain: int = 1) -> None:
    hv.domains[domain].vcpus[0].store(Gva(WINDOW + offset), size, value)


def set_indices(hv: Hypervisor, first: int, last: int) -> None:
    hv.machine.memory.write(guest_address(hv.domains[1], COALESCED_GFN), HEADER.pack(first, last))


def test_writes_are_queued_in_order(hv: Hypervisor) -> None:
    for value, (offset, size) in enumerate(((0, 1), (6, 2), (0xFFC, 4), (0x10, 8))):
        write(hv, offset, size, value)
    page = ring(hv)
    assert HEADER.unpack_from(page) == (0, 4)
    entries = [ENTRY.unpack_from(page, HEADER.size + ENTRY.size * slot) for slot in range(4)]
    assert entries == [(PAGE, 1, 0, 0), (PAGE + 6, 2, 0, 1), (PAGE + 0xFFC, 4, 0, 2), (PAGE + 0x10, 8, 0, 3)]
    assert not any(ring(hv, 2)), "each domain has its own"


def read(hv: Hypervisor, offset: int, size: int = 8) -> int:
    return hv.domains[1].vcpus[0].load(Gva(WINDOW + offset), size)


def test_a_full_ring_loses_nothing_and_a_drained_one_goes_round(hv: Hypervisor) -> None:
    for value in range(SLOTS - 1):
        write(hv, 0, 8, value + 1)
    page = ring(hv)
    assert HEADER.unpack_from(page) == (0, SLOTS - 1)
    assert read(hv, 0) == 0, "all are queued"
    write(hv, 0, 8, 0x1122334455667788)
    write(hv, 0x1A, 2, 0xABCDEF)
    write(hv, 0x1C, 1, 5)
    write(hv, 0x20, 8, 6)
    assert [read(hv, offset) for offset in (0, 8, 16, 24, 32)] == [0x1122334455667788, 0, 0, 0x5CDEF0000, 0]
    assert read(hv, 4, 2) == 0x3344
    assert ring(hv) == page
    set_indices(hv, 5, SLOTS - 1)
    write(hv, 0, 8, 0x77)
    assert HEADER.unpack_from(ring(hv)) == (5, 0)
    assert ENTRY.unpack_from(ring(hv), HEADER.size + ENTRY.size * (SLOTS - 1))[3] == 0x77


@pytest.mark.parametrize("last", [SLOTS, SLOTS + 1, 0x100, (1 << 32) - 1])
def test_an_index_that_is_none_is_not_followed(hv: Hypervisor, last: int) -> None:
    set_indices(hv, 0, last)
    before = ring(hv)
    write(hv, 0, 8, 0x77)
    assert ring(hv) == before
    assert read(hv, 0) == 0x77


@pytest.mark.parametrize("bits", [0, P])
def test_a_ring_out_of_reach_gets_nothing_and_the_write_is_performed(hv: Hypervisor, bits: int) -> None:
    """Unmapped, or read-only with CR0.WP."""
    entry = guest_address(hv.domains[1], PT_KERNEL_GFN, 8 * COALESCED_GFN)
    hv.machine.memory.store64(entry, hv.machine.memory.load64(entry) & ~(P | RW) | bits)
    vcpu = hv.domains[1].vcpus[0]
    vcpu.invlpg(Gva(RING))
    write(hv, 0, 8, 0x77)
    assert not any(ring(hv))
    assert vcpu.pending_fault is None
    assert read(hv, 0) == 0x77


def test_the_ring_is_translated_once(hv: Hypervisor) -> None:
    """The ring is the table that maps it, and the entry takes it out of reach: the index still follows the entry."""
    domain = hv.domains[1]
    table = guest_address(domain, PT_KERNEL_GFN)
    hv.machine.tlb.set_capacity(0)
    # The entry at slot 10 ends with the word that maps the page of the ring.
    set_table = 8 * COALESCED_GFN
    hv.machine.memory.store64(table + set_table, PT_KERNEL_GFN << PAGE_SHIFT | 0x63)
    slot = (set_table - HEADER.size) // ENTRY.size
    hv.machine.memory.write(table, HEADER.pack(0, slot))
    write(hv, 0, 8, 0x77)
    assert hv.machine.memory.read(table, 8) == HEADER.pack(0, slot + 1)


def test_reads_give_nothing(hv: Hypervisor) -> None:
    write(hv, 0, 8, 0x77)
    assert hv.domains[1].vcpus[0].load(Gva(WINDOW), 8) == 0


@given(
    first=st.integers(0, 40), last=st.integers(0, 40), width=st.sampled_from((1, 2, 4, 8)), value=st.integers(0, 255)
)
def test_the_oracle_reads_the_layout_in_the_same_way(first: int, last: int, width: int, value: int) -> None:
    expected = coalesced_ring.writes(struct.pack("<II", first, last), PAGE, width, value)
    slot = free_slot(first, last)
    if slot is None:
        assert expected == ()
    else:
        entry, index = expected
        assert entry == (RING + HEADER.size + slot * ENTRY.size, ENTRY.pack(PAGE, width, 0, value))
        assert index == (RING + LAST, ((slot + 1) % SLOTS).to_bytes(4, "little"))
        assert entry[0] + ENTRY.size - 1 >> PAGE_SHIFT == RING >> PAGE_SHIFT
