"""Versions, features and limits, as a guest asks for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi.limits import LIMITS
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


@pytest.mark.parametrize(("want", "version"), [(1, 1), (2, 2), (3, 2), (0xFFFF_FFFF, 2)])
def test_the_highest_common_version_is_agreed_on(
    hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall, want: int, version: int
) -> None:
    assert guest_call(hv, vcpu, "discovery.version", want=want) == (Status.OK, version)
    assert [domain.version for domain in hv.domains] == [2, version, 2]


def test_version_zero_is_refused(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    assert guest_call(hv, vcpu, "discovery.version", want=0) == (Status.INVALID, 0)
    assert hv.domains[1].version == 2


def test_a_domain_may_go_back_and_forth(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    assert guest_call(hv, vcpu, "discovery.version", want=1)[1] == 1
    assert guest_call(hv, vcpu, "memory.exchange", count=1)[0] is Status.NO_CALL
    assert guest_call(hv, vcpu, "discovery.version", want=2)[1] == 2
    assert guest_call(hv, vcpu, "memory.exchange", count=1)[0] is Status.FAULT


@pytest.mark.parametrize(("version", "page", "bitmap"), [(2, 0, 0x1FF), (1, 0, 0x1FF), (2, 1, 7), (1, 1, 0)])
def test_features_are_those_of_the_version(
    hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall, version: int, page: int, bitmap: int
) -> None:
    hv.domains[1].version = version
    assert guest_call(hv, vcpu, "discovery.features", page=page) == (Status.OK, bitmap)
    assert guest_call(hv, vcpu, "discovery.features", page=2) == (Status.INVALID, 0)


def test_limits_are_told(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    told = [guest_call(hv, vcpu, "discovery.limits", what=limit.what) for limit in LIMITS]
    assert told == [(Status.OK, value) for value in (64, 64, 128, 16, 16, 64, 16, 256, 0x800, 16)]
    assert guest_call(hv, vcpu, "discovery.limits", what=10) == (Status.INVALID, 0)


def test_the_size_of_the_pool_is_the_present_one(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    guest_call(hv, vcpu, "memory.populate", first=0x400, count=1)
    assert guest_call(hv, vcpu, "discovery.limits", what=9) == (Status.OK, 15)
