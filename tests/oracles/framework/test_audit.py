"""The oracle `audit`: checking the whole state finds what following changes missed."""

from __future__ import annotations

from typing import Any

import pytest

from hvfuzz.hypervisor.memory.frames import ONE_MAP, FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT


def behind_the_back(rig: Any, hpa: int, value: int) -> None:
    """Write a word without reporting it: as if the shadow had overlooked it."""
    rig.memory.dirty.add(hpa >> PAGE_SHIFT)
    rig.memory.words[hpa >> 3] = value


def test_agreement(rig: Any) -> None:
    rig.run(
        "memory.populate(dom1, first=0x200, count=2, order=9)",
        "memory.decrease(dom1, first=0x210, count=3)",
        "r0 = grant.create(dom1, gfn=0x30, to=2, rights=R)",
        "grant.map(dom2, granter=1, ref=r0, gfn=0x300, iova=0x5000, flags=HOST|DEVICE|READONLY)",
        "device.dma_map(dom1, iova=0x40000000, gfn=0x30, count=4, rights=R)",
        "device.dma_unmap(dom1, iova=0x40000000, count=4)",
        "device.deassign(dom0, device=0)",
    )
    rig.suite.audit()
    assert rig.rules == []


@pytest.mark.parametrize("dma", [False, True])
def test_table_word(rig: Any, dma: bool) -> None:
    rig.run("device.dma_map(dom1, iova=0, gfn=0x30, count=1, rights=R)")
    behind_the_back(rig, rig.free_entry(1, 0x1F0, dma=dma), rig.in_state(FrameState.FREE) << PAGE_SHIFT | 0x37)
    rig.suite.audit()
    assert rig.rules == ["audit/shadow"]


def test_frame_word(rig: Any) -> None:
    place = rig.word(rig.frame(1, 0x30))
    behind_the_back(rig, place, rig.memory.load64(place) + ONE_MAP)
    rig.suite.audit()
    assert rig.rules == ["audit/shadow"]


def test_context_entry(rig: Any) -> None:
    behind_the_back(rig, rig.hv.iommu.buses[0] + (rig.machine.devices[0].bdf & 0xFF) * 16, 0)
    rig.suite.audit()
    assert rig.rules == ["audit/shadow"]


def test_grant_outside_any_call(rig: Any) -> None:
    rig.run("r0 = grant.create(dom1, gfn=0x30, to=2, rights=R)")
    rig.hv.domains[1].grants[0] = None
    rig.suite.audit()
    assert [finding.identity for finding in rig.suite.findings] == ["audit/shadow/audit"]


def test_what_another_oracle_finds_only_now(rig: Any) -> None:
    rig.hv.domains[1].version = 1
    rig.suite.audit()
    assert [finding.identity for finding in rig.suite.findings] == ["audit/specification.version/audit"]


def test_what_another_oracle_found_before(rig: Any) -> None:
    """Once is enough: the state is still wrong when the audit comes."""
    place = rig.word(rig.frame(1, 0x30))
    rig.poke(place, rig.memory.load64(place) + ONE_MAP)
    before = rig.rules
    assert "recount/maps" in before
    rig.suite.audit()
    assert rig.rules == before
