"""The time-stamp counter: as coarse as the clock that guests may call for, and read no more often."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.cpu.registers import RIP
from hvfuzz.machine.cpu.vcpu import VCpu

GuestCall = Callable[..., tuple[Status, int]]
GRAIN = 4096
WINDOW = 65536


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1, with the clock at the start of a window."""
    hv.machine.clock.cycles = 10 * WINDOW
    return hv.domains[1].vcpus[0]


@pytest.mark.parametrize(("instruction", "length"), [(VCpu.rdtsc, 2), (VCpu.rdtscp, 3)])
def test_it_tells_the_time_in_grains(vcpu: VCpu, instruction: Callable[[VCpu], int], length: int) -> None:
    rip = vcpu.regs[RIP]
    told = instruction(vcpu)
    assert told == 10 * WINDOW
    assert vcpu.regs[RIP] == rip + length


def test_the_fifth_read_waits_for_the_next_window(hv: Hypervisor, vcpu: VCpu) -> None:
    assert {vcpu.rdtsc() for _ in range(4)} <= {10 * WINDOW, 10 * WINDOW + GRAIN, 10 * WINDOW + 2 * GRAIN}
    assert hv.machine.clock.cycles < 11 * WINDOW
    assert vcpu.rdtsc() == 11 * WINDOW
    assert hv.domains[1].clock_reads == 1


def test_calls_and_instructions_read_one_clock(hv: Hypervisor, vcpu: VCpu, guest_call: GuestCall) -> None:
    other = hv.domains[1].vcpus[1]
    for _ in range(2):
        assert guest_call(hv, vcpu, "time.clock_read")[0] is Status.OK
        other.rdtsc()
    assert guest_call(hv, vcpu, "time.clock_read") == (Status.AGAIN, 0)
    assert hv.domains[2].vcpus[0].rdtsc() < 11 * WINDOW, "the count is a domain's own"
    assert other.rdtsc() == 11 * WINDOW


def test_no_window_has_more_reads_than_the_contract_allows(vcpu: VCpu) -> None:
    told = [vcpu.rdtsc() for _ in range(100)]
    assert told == sorted(told)
    assert all(time % GRAIN == 0 for time in told)
    windows = [time // WINDOW for time in told]
    assert max(windows.count(window) for window in set(windows)) == 4
