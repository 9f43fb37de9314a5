"""CPUID: the emulated processor, leaf by leaf; what it says is there can be used, and what it does not cannot."""

from __future__ import annotations

import pytest

from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.vcpu.cpuid import cpuid_leaf
from hvfuzz.machine.addresses import MAXPHYADDR
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.mmu import paging
from hvfuzz.oracles.contract.spec.platform.cpuid import cpuid as specified

LEAVES = (
    *range(0x20),
    0x3FFF_FFFF,
    *range(0x4000_0000, 0x4000_0010),
    0x4FFF_FFFF,
    0x5000_0000,
    *range(0x8000_0000, 0x8000_0010),
    0xFFFF_FFFF,
)


@pytest.fixture
def vcpu(hv: Hypervisor) -> VCpu:
    """vCPU 1 of dom1."""
    return hv.domains[1].vcpus[1]


def leaf(vcpu: VCpu, number: int, subleaf: int = 0) -> tuple[int, ...]:
    """EAX, EBX, ECX, EDX, all 64 bits of the registers."""
    vcpu.cpuid(number, subleaf)
    return tuple(vcpu.regs[register] for register in (RAX, RBX, RCX, RDX))


@pytest.mark.parametrize("number", LEAVES)
def test_every_leaf_is_as_specified_and_fits_32_bits(number: int) -> None:
    for subleaf in (0, 1, 2, 0xFF, 0x1234):
        for apic_id, vcpus in ((0, 1), (1, 2), (3, 5)):
            registers = cpuid_leaf(number, subleaf, apic_id, vcpus)
            assert registers == specified(number, subleaf, apic_id, vcpus)
            assert max(registers) < 1 << 32


def test_the_processor_has_a_name(vcpu: VCpu) -> None:
    last, *name = leaf(vcpu, 0)
    assert last == 0xB
    assert b"".join(name[at].to_bytes(4, "little") for at in (0, 2, 1)) == b"GenuineIntel"


def test_a_leaf_beyond_the_last_is_the_last(vcpu: VCpu) -> None:
    assert leaf(vcpu, 0xC, 1) == leaf(vcpu, 0x8000_0009, 1) == leaf(vcpu, 0xB, 1) == (1, 2, 0x201, 1)
    assert leaf(vcpu, 0x4FFF_FFFF) == (0, 0, 0, 0)


def test_each_virtual_cpu_has_its_own_number(hv: Hypervisor) -> None:
    for vcpu in hv.machine.vcpus:
        assert leaf(vcpu, 1)[1] >> 24 == leaf(vcpu, 0xB)[3] == vcpu.index
        assert leaf(vcpu, 0xB, 1)[1] == len(hv.domains[vcpu.domain].vcpus)


def test_addresses_are_as_wide_as_the_machine_has_them(vcpu: VCpu) -> None:
    assert leaf(vcpu, 0x8000_0008)[0] == 48 << 8 | MAXPHYADDR


CR4 = {
    paging.CR4_TSD: (1, RDX, 4),
    1 << 3: (1, RDX, 2),
    1 << 4: (1, RDX, 3),
    1 << 6: (1, RDX, 7),
    paging.CR4_PGE: (1, RDX, 13),
    1 << 9: (1, RDX, 24),
    1 << 10: (1, RDX, 25),
    1 << 13: (1, RCX, 5),
    1 << 16: (7, RBX, 0),
    paging.CR4_PCIDE: (1, RCX, 17),
    1 << 18: (1, RCX, 26),
    paging.CR4_SMEP: (7, RBX, 7),
    paging.CR4_SMAP: (7, RBX, 20),
    1 << 22: (7, RCX, 3),
}
"""Bit of CR4 -> the leaf, register and bit that tell of its feature (SDM Vol. 3A, 2.5)."""


@pytest.mark.parametrize("bit", CR4)
def test_a_bit_of_cr4_can_be_set_exactly_if_its_feature_is_there(vcpu: VCpu, bit: int) -> None:
    number, register, place = CR4[bit]
    vcpu.cpuid(number)
    there = vcpu.regs[register] >> place & 1
    try:
        vcpu.mov_cr(4, paging.CR4_PAE | bit)
    except GuestFault:
        assert not there
    else:
        assert there


def test_efer_has_what_cpuid_says(vcpu: VCpu) -> None:
    features = leaf(vcpu, 0x8000_0001)[3]
    for place, bit in ((11, paging.EFER_SCE), (20, paging.EFER_NXE), (29, paging.EFER_LME)):
        assert features >> place & 1
        vcpu.wrmsr(0xC000_0080, paging.EFER_LME | bit)
