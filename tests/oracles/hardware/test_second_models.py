"""The second models of the hardware's caches agree with the machine, and mutants of the machine are told apart."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import pytest

from hvfuzz.machine.addresses import EXEC, READ, WRITE
from hvfuzz.machine.clock import Clock
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.vtd.iommu import DmaFault, Iommu
from hvfuzz.machine.vtd.legacy_mode import context_entry, root_entry
from hvfuzz.oracles.hardware.second_caches import SecondCaches, contents, difference
from hvfuzz.oracles.hardware.second_iommu import SecondIommu, state

ADDRESSES = (0, 0x1000, 0x20_0000, 0x20_1000, 0x4000_0000, 0x80_0000_0000, 0xFFFF_8800_0000_1000)


def filled(rng: Random) -> Tlb:
    """A TLB with entries of two VPIDs, PCIDs and EPTPs, of all sizes, some of them global."""
    tlb = Tlb()
    for _ in range(40):
        vpid, pcid, root = rng.randrange(3), rng.randrange(2), rng.choice((0x1000, 0x2000))
        gva, order = rng.choice(ADDRESSES), rng.choice((0, 9, 18))
        tlb.insert((vpid, pcid, root, gva >> 12), (rng.randrange(99) << 12, READ, True, rng.random() < 0.3, order, 0))
        tlb.insert_guest_physical((root, gva >> 12 & 0xFFFF), (0, READ, order))
        tlb.structures.keep(vpid, pcid, root, gva, [(0, 0, 7, 7, 0, level) for level in (2, 3, 4)])
        tlb.structures.keep_ept(root, gva & 0xFFFF_FFFF, [(0, 7, level) for level in (2, 3, 4)])
    return tlb


@pytest.mark.parametrize("seed", range(10))
def test_invalidations(seed: int) -> None:
    rng = Random(seed)
    operands: dict[str, Any] = {
        "invlpg": lambda: (rng.randrange(3), rng.randrange(2), rng.choice(ADDRESSES)),
        "invpcid": lambda: (rng.randrange(4), rng.randrange(3), rng.randrange(2), rng.choice(ADDRESSES)),
        "invvpid": lambda: (rng.randrange(4), rng.randrange(1, 3), rng.choice(ADDRESSES)),
        "flush_vpid": lambda: (rng.randrange(3),),
        "flush_pcid": lambda: (rng.randrange(3), rng.randrange(2)),
        "invept": lambda: (rng.choice((None, 0x101E, 0x201E)),),
        "set_capacity": lambda: (rng.randrange(20),),
    }
    for _ in range(20):
        for name, choose in operands.items():
            tlb = filled(rng)
            second, chosen = SecondCaches(tlb), choose()
            getattr(tlb, name)(*chosen)
            getattr(second, name)(*chosen)
            assert second.contents() == contents(tlb), (name, chosen)


def test_an_invvpid_that_fails_drops_nothing() -> None:
    tlb = filled(Random(0))
    second = SecondCaches(tlb)
    for operands in ((4, 1, 0), (1, 0, 0), (1, 1 << 16, 0), (0, 1, 1 << 47)):
        with pytest.raises(ValueError, match="INVVPID"):
            tlb.invvpid(*operands)
        second.invvpid(*operands)
    assert second.contents() == contents(tlb)


@pytest.mark.parametrize("seed", range(10))
def test_requests(seed: int) -> None:
    """Random tables, random requests and commands: outcome, caches, records and cycles agree."""
    rng = Random(seed)
    memory = PhysicalMemory(64 << 12)
    iommu = Iommu(memory, Clock())
    iommu.enable(0x1000)
    iommu.set_capacity(4)
    memory.store64(0x1000, root_entry(0x2000))
    odd = (0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 11, 1 << 41, 1 << 62)
    for _ in range(60):
        bdf, device_table = rng.randrange(24), rng.choice((0x3000, 0x4000, 0x7FF_F000))
        low, high = context_entry(rng.randrange(3), device_table, rng.choice((3, 4)), fpd=rng.random() < 0.2)
        memory.store64(0x2000 + 16 * bdf, low ^ rng.choice(odd if rng.random() < 0.3 else (0,)))
        memory.store64(0x2008 + 16 * bdf, high | (rng.choice((1 << 7, 1 << 30, 4)) if rng.random() < 0.1 else 0))
        entry = rng.choice((0x3000, 0x4000, 0x5000, 0x7FF_F000, 0xFEE0_0000, 1 << 30)) | rng.choice((3, 3, 3, 1, 2, 0))
        entry |= rng.choice((1 << 7, 1 << 11, 1 << 62, 1 << 45)) if rng.random() < 0.2 else 0
        memory.store64(rng.choice((0x3000, 0x4000, 0x5000)) + 8 * rng.choice((0, 1, 511)), entry)
        for _ in range(4):
            second = SecondIommu(iommu, memory.words)
            if rng.random() < 0.1:
                did, iova = rng.choice(((None, None), (1, None), (1, 0x1000)))
                order = rng.choice((0, 1, 9))
                iommu.invalidate_iotlb(did, iova, order)
                second.invalidate_iotlb(did, iova, order)
            elif rng.random() < 0.1:
                device, domain = rng.choice(((None, None), (bdf, None), (None, 1), (bdf, 1)))
                ignore = rng.choice((0, 4, 7))
                iommu.invalidate_context(device, domain, ignore=ignore)
                second.invalidate_context(device, domain, ignore=ignore)
            else:
                iova = rng.choice((0, 0x1008, 0x20_0000, 0x1FF << 30, 1 << 39, 1 << 48, 0xFEE0_0010))
                access = rng.choice((READ, WRITE, READ | WRITE))
                expected = second.translate(bdf, iova, access)
                try:
                    outcome: tuple[Any, ...] = ("page", iommu.translate(bdf, iova, access))
                except DmaFault as fault:
                    outcome = ("blocked", fault.reason, fault.bdf, fault.iova)
                assert outcome == expected
            assert second.state() == state(iommu)
            if rng.random() < 0.02:
                iommu.clear_faults()


def test_a_difference_names_the_first_entry() -> None:
    assert difference([1, 2], [1, 3]) == "2 stands at place 1, expected 3"
    assert difference([1], [1, 3]) == "no entry stands at place 1, expected 3"
    assert difference(1, 2) == "1, expected 2"


def test_walks_of_odd_address_spaces(watched: Any) -> None:
    """The models agree on walks that hit and miss every cache, by any access, with and without SMAP, SMEP and NX."""
    rig = watched("principal", "stale")
    rig.suite.watch_closely(True)
    rng = Random(1)
    vcpu = rig.machine.vcpus[1]
    entries = (0, 0x50007, 0x50067, 0x51001, 0x8000000000050067, 0x10000050067, 0x400000E7, 0x7FFFFF067)
    for _ in range(400):
        gva = rng.choice((0x400000, 0x401000, 0x402000, 0xFFFF880000050000, 0x200000, 1 << 39, 1 << 47))
        rig.run(
            f"pte(dom1, gva={gva & 0xFFFFFFFFFFF:#x}, level={rng.randrange(1, 4)}, entry={rng.choice(entries):#x})"
            if rng.random() < 0.2
            else f"mov_cr(dom1, register=CR4, value={0xA0 | rng.choice((0, 1 << 17, 1 << 20, 3 << 20)):#x})"
            if rng.random() < 0.1
            else f"invlpg(dom1, gva={gva:#x})"
            if rng.random() < 0.1
            else f"tlb(dom1, capacity={rng.choice((0, 1, 2, 8, 64))})"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vcpu, "efer", vcpu.efer ^ rng.choice((0, 1 << 11)))
            with suppress(GuestFault, EptViolation):
                rig.machine.mmu.translate(vcpu, gva, rng.choice((READ, WRITE, EXEC)), rng.random() < 0.5)
    assert [finding for finding in rig.suite.findings if finding.rule in ("walk", "invalidation")] == []
