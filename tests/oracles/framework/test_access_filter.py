"""The access filter raises events for unusual accesses only."""

from __future__ import annotations

from typing import Any

import pytest

from hvfuzz.abi.boot import HYPERVISOR_HOLE_START
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, READ, WRITE
from hvfuzz.oracles.framework.access_filter import AccessFilter

GVA = 0xFFFF_8800_0005_0000
EVENTS = ("invalid_copy", "foreign_copy", "dma_or_foreign_access", "guest_load")


@pytest.fixture
def raised() -> list[str]:
    """The events that `access_filter` raised."""
    return []


@pytest.fixture
def access_filter(rig: Any, raised: list[str]) -> AccessFilter:
    made = AccessFilter(rig.shadow.scene)
    for event in EVENTS:
        setattr(made, event, lambda *_, event=event: raised.append(event))
    return made


def test_copies(rig: Any, access_filter: AccessFilter, raised: list[str]) -> None:
    vcpu = rig.hv.domains[1].vcpus[0]
    own, foreign = (rig.frame(domain, 0x50) << PAGE_SHIFT for domain in (1, 2))
    for gva, hpa, size, events in (
        (GVA, own, 8, []),
        (GVA, own + PAGE_SIZE - 8, 16, ["foreign_copy"]),
        (GVA, foreign, 8, ["foreign_copy"]),
        (GVA, rig.memory.size, 8, ["foreign_copy"]),
        ((1 << 47) - 8, own, 8, []),
        ((1 << 47) - 8, own, 16, ["invalid_copy"]),
        (HYPERVISOR_HOLE_START, own, 8, ["invalid_copy"]),
        ((1 << 64) - 8, own, 16, ["invalid_copy"]),
    ):
        raised.clear()
        access_filter.guest_copy(vcpu, gva, hpa, size, write=True)
        assert raised == events, (gva, hpa, size)


def test_accesses(rig: Any, access_filter: AccessFilter, raised: list[str]) -> None:
    vcpu, device = rig.hv.domains[1].vcpus[0], rig.machine.devices[0]
    own, foreign = (rig.frame(domain, 0x50) << PAGE_SHIFT for domain in (1, 2))
    for initiator, hpa, access, events in (
        (vcpu, own, WRITE, []),
        (vcpu, own, READ, ["guest_load"]),
        (vcpu, foreign, READ, ["dma_or_foreign_access", "guest_load"]),
        (vcpu, own + PAGE_SIZE - 4, WRITE, ["dma_or_foreign_access"]),
        (device, own, READ, ["dma_or_foreign_access"]),
    ):
        raised.clear()
        access_filter.memory_access(initiator, hpa, 8, access)
        assert raised == events, (initiator, hpa, access)
