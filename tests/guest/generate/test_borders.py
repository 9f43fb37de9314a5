"""The generator goes to the borders of what there is: counted over programs, and by what their ops come to."""

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

from hvfuzz.abi.boot import DEVICES, DIRECT_MAP, HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START, MMIO_BASE
from hvfuzz.abi.limits import IOVA_HOLE
from hvfuzz.abi.status import Status
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.generate.templates.borders.device_borders import device_of_the_control_domain, registers_for_peers
from hvfuzz.guest.generate.templates.borders.interrupt_borders import logical_interrupts, priority_tie
from hvfuzz.guest.generate.templates.borders.memory_borders import (
    exit_at_the_last_rip,
    protection_that_needs_tables,
)
from hvfuzz.guest.generate.templates.borders.waiting_borders import (
    deadline_met_exactly,
    filling,
    wake_of_the_awake,
)
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.program.ops import Catalogue, catalogue
from hvfuzz.guest.program.program import Op, Program, defect
from hvfuzz.guest.run.trace import Result
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.hypervisor.vcpu.scheduler import Scheduler
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.target import Run

PROGRAMS = 4000
ICR, SELF_IPI, TPR, LVT_ERROR, LSTAR = 0x830, 0x83F, 0x808, 0x837, 0xC000_0082
LOGICAL, SHORTHAND, MASKED = 1 << 11, 3 << 18, 1 << 16
LOWER_END = 1 << 47
LENGTHS = {"sched.yield": 3, "cpuid": 2, "rdtsc": 2, "hlt": 1}


@pytest.fixture(scope="module")
def known() -> Catalogue:
    """The kinds of ops over the real ABI."""
    return catalogue(ABI)


@pytest.fixture(scope="module")
def target() -> Iterator[EmulatedTarget]:
    """The hypervisor without a bug, all oracles on."""
    with EmulatedTarget() as emulated:
        yield emulated


def numbers(op: Op) -> list[int]:
    """The plain numbers among an op's values."""
    return [value for value in op.values if type(value) is int]


def borders_of(program: Program) -> Iterator[str]:
    """The borders that a program goes to, as far as its text tells."""
    msrs: dict[int, dict[int, int]] = {}
    for before, op in zip((None, *program.ops), program.ops, strict=False):
        name, values = op.kind.name, numbers(op)
        if name == "wrmsr" and len(values) == 2:
            index, value = values
            vector = value & 0xFF
            written = msrs.setdefault(op.actor.domain, {})
            if index == ICR and value & LOGICAL and not value & SHORTHAND and vector >= 16:
                yield "logical destination"
            lvt = written.get(LVT_ERROR, MASKED)
            if index in (ICR, SELF_IPI) and vector < 16 and not lvt & MASKED and lvt & 0xFF >= 16:
                yield "error interrupt"
            if index == ICR and written.get(TPR, 0) >= 16 and written[TPR] >> 4 == vector >> 4:
                yield "priority tie"
            written[index] = value
        lstar = msrs.get(op.actor.domain, {}).get(LSTAR, 0)
        if before is not None and before.kind.name == "syscall" and name in LENGTHS:
            end = lstar + LENGTHS[name]
            if end == LOWER_END:
                yield "end of the lower half"
            if end == 1 << 64:
                yield "end of all addresses"
        if name in ("device.assign", "device.deassign", "device.dma_submit") and op.values[0] == DEVICES:
            yield "device one past the last"
        if name in ("load", "store") and values[0] - DIRECT_MAP - MMIO_BASE == DEVICES << 12:
            yield "registers one past the last"
        if name == "device.assign" and op.values[1] == 0:
            yield "device of domain 0"
        if name == "device.dma_map" and op.values[1] == MMIO_BASE >> 12:
            yield "registers of device 0"
        if (name == "device.dma_submit" or name == "mmio_write") and IOVA_HOLE.start in values:
            yield "interrupt range"
        if name == "memory.exchange" and len(values) >= 3:
            start = values[-1]
            edges = HYPERVISOR_HOLE_START, HYPERVISOR_HOLE_END
            if start and any(abs(base + 8 * start - edge) <= 8 for base in values[:-2] for edge in edges):
                yield "array at the hole"


def test_generated_programs_go_to_every_border(known: Catalogue) -> None:
    rng = Random(1)
    seen = Counter(border for _ in range(PROGRAMS) for border in set(borders_of(generate(rng, known))))
    expected = {
        "logical destination": 40,
        "error interrupt": 20,
        "priority tie": 20,
        "end of the lower half": 10,
        "end of all addresses": 5,
        "device one past the last": 30,
        "registers one past the last": 8,
        "device of domain 0": 40,
        "registers of device 0": 40,
        "interrupt range": 15,
        "array at the hole": 20,
    }
    assert {name: seen[name] for name, least in expected.items() if seen[name] < least} == {}


Made = Callable[[Callable[[Context], None], int, int], Iterator[tuple[Program, Run]]]


@pytest.fixture
def made(known: Catalogue, target: EmulatedTarget) -> Made:
    """A function (template, world, times) -> the programs that it makes alone, with their runs."""

    def programs(template: Callable[[Context], None], world: int, times: int) -> Iterator[tuple[Program, Run]]:
        for seed in range(times):
            context = Context(grammar_for(known), Random(seed), world, [])
            template(context)
            program = Program(world, tuple(context.ops))
            assert defect(program) is None
            run = target.run(program)
            assert run.findings == ()
            yield program, run

    return programs


def endings(program: Program, run: Run, name: str) -> list[int]:
    """The statuses of the ops of this kind that were performed."""
    return [
        outcome.status
        for outcome in run.trace.outcomes
        if outcome.how == Result.OK and program.ops[outcome.op].kind.name == name
    ]


def test_the_pool_runs_dry_in_a_protection(made: Made) -> None:
    dry, enough = 0, 0
    for program, run in made(protection_that_needs_tables, 0, 60):
        mapped = endings(program, run, "device.dma_map")
        statuses = endings(program, run, "memory.protect")
        dry += Status.NO_POOL in statuses and not any(mapped)
        enough += Status.OK in statuses
    assert dry > 20
    assert enough > 20


def test_a_deadline_is_met_to_the_cycle(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[int] = []
    expire = Scheduler.expire

    def watched(self: Scheduler, vcpus: list[object]) -> None:
        met.extend(poll.deadline for poll in self.polls.values() if poll.deadline == self.clock.cycles)
        expire(self, vcpus)  # type: ignore[arg-type]

    monkeypatch.setattr(Scheduler, "expire", watched)
    assert len(list(made(deadline_met_exactly, 0, 40))) == 40
    assert 25 < len(met) < 40, "sometimes an instruction less comes before it"


def test_the_fewest_instructions_fill_a_time() -> None:
    assert filling(0, (3, 5)) == ()
    assert filling(4, (3, 5)) is None
    assert sorted(filling(11, (3, 5)) or ()) == [3, 3, 5]
    assert filling(10, (1, 5)) == (5, 5)


def test_a_device_of_the_control_domain_stays_its_own(made: Made) -> None:
    assert all(Status.BUSY in endings(*each, "device.assign") for each in made(device_of_the_control_domain, 0, 20))


def test_registers_are_mapped_for_peers(made: Made) -> None:
    mapped = [endings(*each, "device.dma_map")[1] for each in made(registers_for_peers, 2, 20)]
    assert mapped == [Status.OK] * 20


def test_instructions_end_where_addresses_end(made: Made) -> None:
    faults, whole = 0, 0
    for program, run in made(exit_at_the_last_rip, 0, 100):
        last = run.trace.outcomes[-1]
        faults += last.how == Result.FAULT
        whole += last.how == Result.OK and program.ops[-1].kind.name in LENGTHS
    assert faults > 20
    assert whole > 20


def test_a_tie_keeps_a_halted_vcpu_waiting(made: Made) -> None:
    skipped, woken = 0, 0
    for _, run in made(priority_tie, 0, 60):
        skipped += any(outcome.how == Result.SKIPPED for outcome in run.trace.outcomes)
        woken += run.trace.outcomes[-1].how == Result.OK
    assert skipped > 40
    assert woken > 20


def test_a_logical_interrupt_arrives(made: Made) -> None:
    arrived = sum(
        any(program.ops[outcome.op].kind.name == "rdmsr" and outcome.result > 3 for outcome in run.trace.outcomes)
        for program, run in made(logical_interrupts, 0, 60)
    )
    assert arrived > 15


def test_a_wake_finds_a_vcpu_that_runs(made: Made) -> None:
    kicks, waits = 0, 0
    for program, run in made(wake_of_the_awake, 0, 60):
        kicks += any(
            program.ops[outcome.op].kind.name == "sched.kick" and outcome.how == Result.OK and not outcome.result
            for outcome in run.trace.outcomes
        )
        waits += any(outcome.how == Result.SKIPPED for outcome in run.trace.outcomes)
    assert kicks > 15
    assert waits > 15
