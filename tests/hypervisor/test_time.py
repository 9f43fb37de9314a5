"""The clock that a guest may read: coarse, and not too often."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.vcpu.guest_clock import quantised
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
WINDOW = 65536


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1, with the clock at the start of a window."""
    hv.machine.clock.cycles = 10 * WINDOW
    return hv.domains[1].vcpus[0]


@pytest.mark.parametrize(("cycles", "told"), [(0, 0), (4095, 0), (4096, 4096), (3 * 4096 + 1, 3 * 4096)])
def test_time_is_rounded_down(cycles: int, told: int) -> None:
    assert quantised(cycles) == told


def test_the_clock_never_tells_more_than_its_grain(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    before = hv.machine.clock.cycles
    status, told = guest_call(hv, vcpu, "time.clock_read")
    assert (status, told % 4096) == (Status.OK, 0)
    assert before - 4096 < told <= hv.machine.clock.cycles


def test_four_reads_fit_in_a_window(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    assert [guest_call(hv, vcpu, "time.clock_read")[0] for _ in range(4)] == [Status.OK] * 4
    assert [guest_call(hv, vcpu, "time.clock_read") for _ in range(3)] == [(Status.AGAIN, 0)] * 3
    assert hv.domains[1].clock_reads == 4, "a refusal is no read"
    hv.machine.clock.cycles = 11 * WINDOW
    assert guest_call(hv, vcpu, "time.clock_read") == (Status.OK, 11 * WINDOW)


def test_vcpus_of_a_domain_share_the_allowance_and_domains_do_not(
    hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall
) -> None:
    sibling, stranger = hv.domains[1].vcpus[1], hv.domains[2].vcpus[0]
    for _ in range(2):
        guest_call(hv, vcpu, "time.clock_read")
        guest_call(hv, sibling, "time.clock_read")
    assert guest_call(hv, sibling, "time.clock_read")[0] is Status.AGAIN
    assert guest_call(hv, stranger, "time.clock_read")[0] is Status.OK
