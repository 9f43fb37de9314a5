"""The local APICs: which registers there are, what a write does, whom an interrupt reaches, the timer."""

from __future__ import annotations

from random import Random

import pytest

from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.vcpu import apic
from hvfuzz.machine.clock import Cost
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.processor_state import RunState
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.oracles.contract.spec.platform import apic as specified

MSR = 0x800
RO = (0x02, 0x03, 0x0A, 0x0D, *range(0x10, 0x28), 0x39)
WO = (0x0B, 0x3F)
RW = (0x08, 0x0F, 0x28, 0x30, *range(0x32, 0x39), 0x3E)
TICK = 16384
PERIODIC = 1 << 17
SPEEDS = (0, 1, 2, 3, 8, 9, 10, 11)


@pytest.fixture
def vcpus(hv: Hypervisor) -> list[VCpu]:
    """The vCPUs of dom1, their APICs switched on."""
    vcpus = hv.domains[1].vcpus
    for vcpu in vcpus:
        vcpu.wrmsr(MSR + 0x0F, 0x1FF)
    return vcpus


def refused(vcpu: VCpu, register: int, value: int | None = None) -> bool:
    """Whether an access is #GP(0)."""
    try:
        if value is None:
            vcpu.rdmsr(MSR + register)
        else:
            vcpu.wrmsr(MSR + register, value)
    except GuestFault as fault:
        return (fault.vector, fault.error) == (13, 0)
    return False


def requests(vcpu: VCpu) -> list[int]:
    """The vectors in IRR."""
    words = [vcpu.rdmsr(MSR + 0x20 + n) for n in range(8)]
    return [32 * n + bit for n, word in enumerate(words) for bit in range(32) if word >> bit & 1]


def test_the_range_has_few_registers(vcpus: list[VCpu]) -> None:
    """Of 1024 MSRs, and the page has room for 64 registers of 16 bytes: XSA-108 was a read of one beyond."""
    assert [n for n in range(0x400) if not refused(vcpus[0], n)] == sorted((*RO, *RW))
    assert [n for n in range(0x400) if not refused(vcpus[0], n, 0)] == sorted((*WO, *RW))


@pytest.mark.parametrize("register", [*RW, *WO])
def test_a_reserved_bit_is_refused(vcpus: list[VCpu], register: int) -> None:
    for bit in range(64):
        assert refused(vcpus[0], register, 1 << bit) == (not specified.takes(register, 1 << bit))


def test_after_power_up(hv: Hypervisor) -> None:
    for vcpu in hv.machine.vcpus:
        assert vcpu.rdmsr(MSR + 0x02) == vcpu.index
        assert vcpu.rdmsr(MSR + 0x03) == 0x0005_0014
        assert vcpu.rdmsr(MSR + 0x0D) == 1 << vcpu.index
        assert vcpu.rdmsr(MSR + 0x0F) == 0xFF
        assert {vcpu.rdmsr(MSR + n) for n in range(0x32, 0x38)} == {1 << 16}
        assert not requests(vcpu)


@pytest.mark.parametrize(
    ("command", "receivers"),
    [
        (1 << 32 | 0x41, [1]),
        (0 << 32 | 0x41, [0]),
        (2 << 32 | 0x41, []),
        (0xFFFF_FFFF << 32 | 0x41, [0, 1]),
        (2 << 32 | 1 << 11 | 0x41, [1]),
        (3 << 32 | 1 << 11 | 0x41, [0, 1]),
        (0x1_0003 << 32 | 1 << 11 | 0x41, []),
        (1 << 18 | 0x41, [0]),
        (2 << 18 | 0x41, [0, 1]),
        (3 << 18 | 0x41, [1]),
        (1 << 32 | 4 << 8, []),
        (1 << 32 | 5 << 8, []),
        (1 << 32 | 6 << 8 | 0x41, []),
    ],
)
def test_an_interrupt_reaches_those_of_the_domain_that_it_names(
    hv: Hypervisor, vcpus: list[VCpu], command: int, receivers: list[int]
) -> None:
    for other in hv.domains[2].vcpus:
        other.wrmsr(MSR + 0x0F, 0x1FF)
    vcpus[0].wrmsr(MSR + 0x30, command)
    assert [vcpu.index for vcpu in vcpus if requests(vcpu) == [0x41]] == receivers
    assert not any(requests(other) for other in hv.domains[2].vcpus)
    assert vcpus[0].rdmsr(MSR + 0x30) == command


def test_an_apic_that_is_off_takes_nothing_and_masks_its_lvt(vcpus: list[VCpu]) -> None:
    one = vcpus[0]
    one.wrmsr(MSR + 0x32, 0x31)
    one.wrmsr(MSR + 0x0F, 0xFF)
    assert one.rdmsr(MSR + 0x32) == 1 << 16 | 0x31
    one.wrmsr(MSR + 0x32, 0x31)
    assert one.rdmsr(MSR + 0x32) == 1 << 16 | 0x31
    vcpus[1].wrmsr(MSR + 0x30, 0x41)
    assert not requests(one)


def test_a_vector_of_an_exception_is_an_error(vcpus: list[VCpu]) -> None:
    one = vcpus[0]
    one.wrmsr(MSR + 0x37, 0x50)
    one.wrmsr(MSR + 0x3F, 0x0F)
    assert one.rdmsr(MSR + 0x28) == 0, "an error shows after a write of ESR"
    one.wrmsr(MSR + 0x28, 0)
    assert one.rdmsr(MSR + 0x28) == 1 << 5
    assert requests(one) == [0x50]


def test_priorities(hv: Hypervisor, vcpus: list[VCpu]) -> None:
    one = vcpus[0]
    apic.set_vector(hv, one, apic.ISR, 0x61, True)
    apic.set_vector(hv, one, apic.ISR, 0x45, True)
    for task, wanted in ((0, 0x60), (0x5F, 0x60), (0x6A, 0x6A), (0x70, 0x70)):
        one.wrmsr(MSR + 0x08, task)
        assert one.rdmsr(MSR + 0x0A) == wanted
    one.wrmsr(MSR + 0x08, 0)
    one.wrmsr(MSR + 0x0B, 0)
    assert one.rdmsr(MSR + 0x0A) == 0x40
    one.wrmsr(MSR + 0x0B, 0)
    one.wrmsr(MSR + 0x0B, 0)
    assert one.rdmsr(MSR + 0x0A) == 0


@pytest.mark.parametrize(
    ("flag", "task", "state"), [(0, 0, RunState.HALTED), (1, 0x40, RunState.HALTED), (1, 0x30, RunState.RUNNABLE)]
)
def test_an_interrupt_ends_a_halt_if_it_can_be_taken(vcpus: list[VCpu], flag: int, task: int, state: int) -> None:
    one, other = vcpus
    one.wrmsr(MSR + 0x08, task)
    (one.sti if flag else one.cli)()
    one.hlt()
    assert one.runnable == RunState.HALTED
    other.wrmsr(MSR + 0x30, 0x41)
    assert one.runnable == state


def test_hlt_does_not_halt_where_an_interrupt_waits(vcpus: list[VCpu]) -> None:
    one = vcpus[0]
    one.wrmsr(MSR + 0x3F, 0x41)
    one.sti()
    one.hlt()
    assert one.runnable == RunState.RUNNABLE


@pytest.mark.parametrize(("bits", "cycles"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_the_timer_counts_ticks(hv: Hypervisor, vcpus: list[VCpu], bits: int, cycles: int) -> None:
    one = vcpus[0]
    hv.machine.clock.cycles = 4 * TICK + 100
    one.wrmsr(MSR + 0x3E, bits)
    one.wrmsr(MSR + 0x38, 0xFFFF_FFFF)
    assert one.rdmsr(MSR + 0x39) == 0xFFFF_FFFF
    hv.machine.clock.cycles = 9 * TICK - 1000
    assert one.rdmsr(MSR + 0x39) == 0xFFFF_FFFF - 4 * TICK // cycles
    assert one.rdmsr(MSR + 0x39) == 0xFFFF_FFFF - 5 * TICK // cycles
    assert hv.domains[1].clock_reads == 0, "it tells no more than other deadlines do"


def test_a_count_that_ends_interrupts_once(hv: Hypervisor, vcpus: list[VCpu]) -> None:
    one, other = vcpus
    start_timer(one, 2 * TICK)
    one.sti()
    one.hlt()
    other.cpuid(0)
    assert one.runnable == RunState.HALTED
    hv.machine.clock.cycles += 3 * TICK
    hv.domains[2].vcpus[0].cpuid(0)
    assert one.runnable == RunState.RUNNABLE
    assert requests(one) == [0x51]
    assert one.rdmsr(MSR + 0x39) == 0
    assert not hv.apic_timers


def test_a_periodic_count_begins_again(hv: Hypervisor, vcpus: list[VCpu]) -> None:
    one = vcpus[0]
    start_timer(one, TICK, PERIODIC)
    for _ in range(3):
        hv.machine.clock.cycles += 5 * TICK
        assert requests(one) == [0x51]
        apic.set_vector(hv, one, apic.IRR, 0x51, False)
    one.wrmsr(MSR + 0x38, 0)
    apic.set_vector(hv, one, apic.IRR, 0x51, False)
    hv.machine.clock.cycles += 5 * TICK
    assert (requests(one), hv.apic_timers) == ([], {})


def start_timer(vcpu: VCpu, count: int, lvt: int = 0) -> None:
    """Start a count of `count` cycles whose end requests vector 0x51."""
    vcpu.wrmsr(MSR + 0x3E, 0xB)
    vcpu.wrmsr(MSR + 0x32, lvt | 0x51)
    vcpu.wrmsr(MSR + 0x38, count)


@pytest.mark.parametrize(("register", "value"), [(0x3E, 0), (0x3E, 0xB), (0x32, 0x51), (0x32, PERIODIC | 0x51)])
def test_only_the_initial_count_starts_a_count_that_has_ended(
    hv: Hypervisor, vcpus: list[VCpu], register: int, value: int
) -> None:
    """SDM Vol. 3A, 11.5.4: the timer remains at 0 until reprogrammed; a change of mode does not start it."""
    one = vcpus[0]
    start_timer(one, TICK)
    hv.machine.clock.cycles += 2 * TICK
    assert (one.rdmsr(MSR + 0x39), requests(one)) == (0, [0x51])
    apic.set_vector(hv, one, apic.IRR, 0x51, False)
    one.wrmsr(MSR + register, value)
    assert one.rdmsr(MSR + 0x39) == 0
    hv.machine.clock.cycles += 9 * TICK
    assert (one.rdmsr(MSR + 0x39), requests(one)) == (0, [])
    hv.machine.clock.cycles = 64 * TICK
    one.wrmsr(MSR + 0x38, 9 * TICK)
    assert one.rdmsr(MSR + 0x39) == 9 * TICK


@pytest.mark.parametrize("bits", range(4))
def test_a_change_of_speed_leaves_the_count_where_it_is(hv: Hypervisor, vcpus: list[VCpu], bits: int) -> None:
    one = vcpus[0]
    start_timer(one, 100 * TICK)
    hv.machine.clock.cycles += 40 * TICK
    left = one.rdmsr(MSR + 0x39)
    one.wrmsr(MSR + 0x3E, bits)
    assert one.rdmsr(MSR + 0x39) == left
    hv.machine.clock.cycles += 32 * TICK
    assert one.rdmsr(MSR + 0x39) == left - (32 * TICK >> bits + 1)
    one.wrmsr(MSR + 0x3E, 0xB)
    hv.machine.clock.cycles += left
    assert requests(one) == [0x51]


@pytest.mark.parametrize("lvt", [0, PERIODIC])
def test_the_mode_at_the_end_decides(hv: Hypervisor, vcpus: list[VCpu], lvt: int) -> None:
    one = vcpus[0]
    start_timer(one, 4 * TICK, PERIODIC - lvt)
    hv.machine.clock.cycles += TICK
    left = one.rdmsr(MSR + 0x39)
    one.wrmsr(MSR + 0x32, lvt | 0x51)
    assert one.rdmsr(MSR + 0x39) == left, "a change of mode does not change the count"
    hv.machine.clock.cycles += 4 * TICK
    assert (one.rdmsr(MSR + 0x39), requests(one)) == (left if lvt else 0, [0x51])


def test_a_masked_count_goes_on(hv: Hypervisor, vcpus: list[VCpu]) -> None:
    one = vcpus[0]
    start_timer(one, 4 * TICK, 1 << 16)
    hv.machine.clock.cycles += TICK
    assert one.rdmsr(MSR + 0x39) == 3 * TICK
    hv.machine.clock.cycles += 3 * TICK
    assert (one.rdmsr(MSR + 0x39), requests(one)) == (0, [])


def test_the_timers_agree_on_any_sequence(hv: Hypervisor, vcpus: list[VCpu]) -> None:
    """The timer after random writes and times; the specification's counts down, the hypervisor's has a deadline."""
    one = vcpus[0]
    rng = Random(2)
    words = [hv.machine.memory.words[(hv.apics[one.id] >> 3) + 2 * n] for n in range(64)]
    tick = hv.machine.clock.cycles // TICK
    for _ in range(3000):
        register = rng.choice((0x32, 0x32, 0x38, 0x3E, 0x3E))
        count = rng.choice((0, rng.randrange(1 << 18), rng.randrange(1 << 14)))
        value = {0x32: rng.choice((0, PERIODIC)) | rng.randrange(0x31, 0x36), 0x38: count, 0x3E: rng.choice(SPEEDS)}
        hv.machine.clock.cycles += rng.randrange(3 * TICK)
        one.wrmsr(MSR + register, value[register])
        now = (hv.machine.clock.cycles - Cost.VMENTRY) // TICK
        specified.pass_ticks(words, now - tick)
        tick = now
        specified.written([words], 0, register, value[register])
        hv.machine.clock.cycles = tick * TICK
        assert one.rdmsr(MSR + 0x39) == specified.reads(words, 0x39)
        assert [one.rdmsr(MSR + n) for n in range(0x20, 0x28)] == words[0x20:0x28]
        if rng.random() < 0.3:
            apic.put(hv, one, apic.IRR + 1, 0)
            words[0x21] = 0


def test_hypervisor_and_specification_agree_on_any_sequence(hv: Hypervisor) -> None:
    """Registers of one domain's APICs, after random accesses that the specification follows as an oracle does."""
    vcpus = hv.domains[1].vcpus
    rng = Random(1)
    chips = [[hv.machine.memory.words[(hv.apics[vcpu.id] >> 3) + 2 * n] for n in range(64)] for vcpu in vcpus]
    registers = [n for n in specified.DEFINED if n not in (0x32, 0x38, 0x3E)]
    for _ in range(3000):
        number, register = rng.randrange(2), rng.choice(registers)
        value = rng.getrandbits(64) & rng.getrandbits(64) & specified.DEFINED[register]
        if register == 0x0F and rng.random() < 0.8:
            value |= 0x100
        if register == 0x30:
            value = rng.choice((value, value & ~0x700 & 0x3_FFFF_FFFF))
        vcpus[number].wrmsr(MSR + register, value)
        specified.written(chips, number, register, value)
        for vcpu, words in zip(vcpus, chips, strict=True):
            found = [hv.machine.memory.words[(hv.apics[vcpu.id] >> 3) + 2 * n] for n in range(64)]
            assert found == words
            assert vcpu.rdmsr(MSR + 0x0A) == specified.reads(words, 0x0A)
            assert (apic.pending(hv, vcpu) >= 0) == specified.deliverable(words, bool(vcpu.regs[17] >> 9 & 1))
        if rng.random() < 0.2:
            vector = rng.randrange(16, 256)
            apic.set_vector(hv, vcpus[number], apic.ISR, vector, True)
            chips[number][0x10 + vector // 32] |= 1 << vector % 32
        if rng.random() < 0.1:
            rng.choice((vcpus[number].sti, vcpus[number].cli))()
