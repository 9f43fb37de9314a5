"""MSRs by the hypervisor: constants, the time-stamp counter, the bitmap; what is not there is #GP(0)."""

from __future__ import annotations

from contextlib import suppress

import pytest

from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.machine.cpu import msrs
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.registers import RIP
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 0 of dom1."""
    return hv.domains[1].vcpus[0]


def test_only_msrs_of_the_guest_do_not_exit(hv: Hypervisor) -> None:
    bitmap = hv.machine.memory.read(hv.msr_bitmap, PAGE_SIZE)
    clear = [8 * byte + bit for byte in range(PAGE_SIZE) for bit in range(8) if not bitmap[byte] >> bit & 1]
    place = {index: index if index < 0x2000 else 0x2000 + (index & 0x1FFF) for index in msrs.GUEST}
    assert clear == sorted(bit + half for bit in place.values() for half in (0, 0x4000))
    assert {vcpu.vmcs.msr_bitmap for vcpu in hv.machine.vcpus} == {hv.msr_bitmap}


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (msrs.APIC_BASE, 0xFEE0_0D00),
        (msrs.XAPIC_DISABLE, 1),
        (msrs.MTRR_CAP, 0),
        (msrs.MTRR_DEFAULT, 0x806),
        (msrs.ARCH_CAPABILITIES, 1 << 21),
        (msrs.MISC_ENABLE, 0x1801),
    ],
)
def test_constants(vcpu: VCpu, index: int, value: int) -> None:
    assert vcpu.rdmsr(index) == value
    rip = vcpu.regs[RIP]
    with pytest.raises(GuestFault):
        vcpu.wrmsr(index, value ^ 4)
    assert (vcpu.rdmsr(index), vcpu.regs[RIP]) == (value, rip + 2), "what is refused is not stepped over"


def test_only_the_first_vcpu_is_the_first(hv: Hypervisor) -> None:
    assert [vcpu.rdmsr(msrs.APIC_BASE) >> 8 & 1 for vcpu in hv.domains[1].vcpus] == [1, 0]


def test_x2apic_mode_cannot_be_left(vcpu: VCpu) -> None:
    vcpu.wrmsr(msrs.APIC_BASE, 0xFEE0_0D00)
    for value in (0, 0xFEE0_0900, 0xFEE0_0500, 0xFEE1_0D00):
        with pytest.raises(GuestFault):
            vcpu.wrmsr(msrs.APIC_BASE, value)


@pytest.mark.parametrize("index", [0, 0x3A, 0x7FF, 0xC00, 0x2000, 0x4000_0000, 0xC000_1000, 0xFFFF_FFFF])
def test_what_is_not_there(vcpu: VCpu, index: int) -> None:
    for access in (lambda: vcpu.rdmsr(index), lambda: vcpu.wrmsr(index, 0)):
        with pytest.raises(GuestFault) as raised:
            access()
        assert (raised.value.vector, raised.value.error) == (13, 0)


def test_the_time_stamp_counter_can_be_set(vcpu: VCpu) -> None:
    vcpu.wrmsr(msrs.TSC, 1 << 40)
    assert vcpu.rdtsc() - (1 << 40) in (0, 4096)
    assert vcpu.rdmsr(msrs.TSC) - (1 << 40) in (0, 4096)
    vcpu.wrmsr(msrs.TSC, 0)
    assert vcpu.rdtsc() in (0, 4096)


def test_reading_the_msr_is_a_read_of_the_clock(hv: Hypervisor, vcpu: VCpu) -> None:
    hv.machine.clock.cycles = 65536
    assert {vcpu.rdmsr(msrs.TSC) // 65536 for _ in range(4)} == {1}
    assert vcpu.rdmsr(msrs.TSC) == 2 * 65536


def test_a_guest_never_meets_an_access_that_nobody_handles(hv: Hypervisor, vcpu: VCpu) -> None:
    reasons = set()
    original = hv.machine.exit_handler

    def handle(exited: VCpu) -> None:
        reasons.add(exited.vmcs.reason)
        original(exited)

    hv.machine.exit_handler = handle
    for index in (*range(0x3000), *range(0xC000_0000, 0xC000_3000)):
        with suppress(GuestFault):
            vcpu.rdmsr(index)
        with suppress(GuestFault):
            vcpu.wrmsr(index, 0)
    assert reasons == {ExitReason.RDMSR, ExitReason.WRMSR}
