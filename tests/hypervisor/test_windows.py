"""Registers mapped for devices: for whom, where, how often, and until when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import DEVICES, MMIO_BASE, WORLDS_BY_NAME
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.devices.register_windows import registers_of
from hvfuzz.machine.vtd.iommu import DmaFault

Call = Callable[..., tuple[Status, int]]
REGISTERS = MMIO_BASE >> PAGE_SHIFT


class Peers:
    """World "devices", but dom1 has both devices."""

    def __init__(self, call: Call, leaves: Callable[..., Any]) -> None:
        self.hv: Hypervisor = boot(WORLDS_BY_NAME["devices"])
        self._call = call
        self._leaves = leaves
        assert self.give(1, 1)

    def call(self, domain: int, name: str, **fields: int) -> Status:
        """A call by the first vCPU of a domain."""
        return self._call(self.hv, self.hv.domains[domain].vcpus[0], f"device.{name}", **fields)[0]

    def give(self, device: int, to: int) -> bool:
        """Move a device."""
        self.call(0, "deassign", device=device)
        return self.call(0, "assign", device=device, to=to) == Status.OK

    def map(self, domain: int, iova: int, gfn: int, count: int = 1, rights: int = 3) -> Status:
        """Map for the domain's devices."""
        return self.call(domain, "dma_map", iova=iova, gfn=gfn, count=count, rights=rights)

    def reach(self, domain: int) -> dict[int, tuple[int, int]]:
        """Device page -> (frame, rights)."""
        return {page: (leaf.hfn, leaf.rights) for page, leaf in self._leaves(self.hv, domain).items()}


@pytest.fixture
def peers(guest_call: Call, device_leaves: Callable[..., Any]) -> Peers:
    return Peers(guest_call, device_leaves)


def frame(device: int) -> int:
    """Frame number of a device's registers."""
    return registers_of(device) >> PAGE_SHIFT


def test_a_domain_maps_the_registers_that_it_has(peers: Peers) -> None:
    for device in (0, 1):
        assert peers.map(1, 0x1000 + (device << PAGE_SHIFT), REGISTERS + device, rights=2 - device) == Status.OK
        assert peers.map(2, 0x1000, REGISTERS + device) == Status.NOT_PERMITTED
        assert peers.map(0, 0x1000, REGISTERS + device) == Status.NOT_PERMITTED
    assert peers.reach(1) == {1: (frame(0), 2), 2: (frame(1), 1)}
    assert [peers.reach(0), peers.reach(2)] == [{}, {}]


def test_what_is_no_single_window_is_refused(peers: Peers) -> None:
    for gfn, count in (
        (REGISTERS, 2),
        (REGISTERS, 0),
        (REGISTERS + DEVICES, 1),
        (REGISTERS - 1, 1),
        (REGISTERS - 1, 2),
    ):
        assert peers.map(1, 0x1000, gfn, count) == Status.INVALID
    assert peers.map(1, 0x1000, REGISTERS, rights=4) == Status.INVALID
    assert peers.reach(1) == {}


def test_registers_are_mapped_at_one_place_and_may_be_moved(peers: Peers) -> None:
    assert peers.map(1, 0x1000, REGISTERS) == Status.OK
    assert peers.map(1, 0x2000, REGISTERS) == Status.EXISTS
    assert peers.map(1, 0x1000, REGISTERS, rights=1) == Status.OK
    assert peers.map(1, 0x1000, REGISTERS + 1) == Status.OK, "in place of the others"
    assert peers.map(1, 0x2000, REGISTERS) == Status.OK
    assert peers.map(1, 0x1000, 0x40, count=2) == Status.OK, "memory in place of both"
    assert peers.map(1, 0x5000, REGISTERS) == Status.OK
    assert peers.call(1, "dma_unmap", iova=0x5000, count=1) == Status.OK
    assert peers.map(1, 0x6000, REGISTERS) == Status.OK
    assert peers.hv.windows == {(1, 6): 0}


@pytest.mark.parametrize("device", [0, 1])
def test_a_device_takes_its_registers_with_it(peers: Peers, device: int) -> None:
    hv = peers.hv
    pool = len(hv.domains[1].pool)
    assert peers.map(1, 0x1000, REGISTERS + device) == Status.OK
    initiator = hv.machine.devices[1 - device]
    initiator.dma_write(0x1000, b"\x11" * 8)
    assert hv.machine.devices[device].mmio_read(0, 8) == 0x1111_1111_1111_1111
    assert peers.give(device, 2)
    with pytest.raises(DmaFault):
        initiator.dma_write(0x1000, b"\x22" * 8)
    assert hv.machine.devices[device].mmio_read(0, 8) == 0
    assert [peers.reach(domain) for domain in range(3)] == [{}, {}, {}]
    assert len(hv.domains[1].pool) == pool
    assert peers.map(2, 0x7000, REGISTERS + device) == Status.OK
    assert peers.reach(2) == {7: (frame(device), 3)}


def test_calls_do_not_copy_to_or_from_registers(peers: Peers) -> None:
    assert peers.map(1, 0x1000, 0x40) == Status.OK
    assert peers.map(1, 0x2000, REGISTERS + 1) == Status.OK
    for source, target in ((0x1000, 0x2000), (0x2000, 0x1000), (0x1FF8, 0x1000), (0x1000, 0x1FF8)):
        status = peers.call(1, "dma_submit", device=0, **{"from": source}, to=target, length=16)
        assert status == Status.FAULT
