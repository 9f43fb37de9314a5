"""Races are put at exactly the points that some run of a kind of op reaches: measured, not listed."""

from __future__ import annotations

from random import Random

import pytest

from hvfuzz.abi.boot import DIRECT_MAP, WORLDS
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.generate.op_composition import compose
from hvfuzz.guest.generate.races import with_race
from hvfuzz.guest.grammar.grammar import grammar_for
from hvfuzz.guest.mutate.race_mutators import change_race
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Actor, Op, Point, Program, points_of
from hvfuzz.guest.run.interpreter import Interpreter
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.snapshot import Snapshot

CATALOGUE = catalogue(ABI)
PAIR = 0
SETUP = """\
# hvp 1
world pair
lidt(dom1, gva=DIRECT+0x50000, limit=0xfff)
"""
TO_RING_3 = """\
store(dom1, gva=DIRECT+0xf000, size=8, value=0x400000)
store(dom1, gva=DIRECT+0xf008, size=8, value=0x33)
store(dom1, gva=DIRECT+0xf010, size=8, value=0x202)
store(dom1, gva=DIRECT+0xf018, size=8, value=0x400ff8)
store(dom1, gva=DIRECT+0xf020, size=8, value=0x2b)
iret(dom1)
"""
"""IOPL is 0: there, every privileged instruction raises an exception, whose delivery reads the IDT."""
NO_SYSCALL = "wrmsr(dom1, index=EFER, value=0xd00)\nmov_cr(dom1, register=CR4, value=0x24)\n"
"""EFER.SCE clear, CR4.TSD set: SYSCALL and SYSRET are #UD, RDTSC is #GP in ring 3."""


TIMER = """\
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x20040)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x1000)
"""
"""An interrupt is due at the next exit after each op `timer`, and the hypervisor then writes to the APIC."""
NO_IDT = "lidt(dom1, gva=DIRECT+0x3ff00000, limit=0xfff)\n"
"""No memory is there: the delivery of an exception exits."""


class Counter:
    """Runs programs, and notes for each kind of op how many points of each sort a run of it reached at most."""

    def __init__(self) -> None:
        hypervisor = boot(WORLDS[PAIR])
        self.machine = hypervisor.machine
        self.interpreter = Interpreter(self.machine, CATALOGUE, WORLDS[PAIR])
        self.snapshot = Snapshot(self.machine, hypervisor)
        self.most = {(kind.name, point): 0 for kind in CATALOGUE.kinds for point in Point}

    def run(self, program: Program) -> None:
        machine = self.machine
        points = {Point.FETCH: machine.fetches, Point.WRITE: machine.writes, Point.STEP: machine.preemptions}

        def before(index: int, op: Op) -> None:
            machine.preemptions.reset()
            machine.writes.arm(1 << 30, lambda: None)  # Writes are counted only while a race is armed.

        def after(index: int, op: Op, outcomes: object) -> None:
            for point, reached in points.items():
                if op.race is None:
                    self.most[op.kind.name, point] = max(self.most[op.kind.name, point], reached.count)

        self.snapshot.restore()
        self.interpreter.run(program, before, after)
        machine.writes.disarm()


@pytest.fixture(scope="module")
def most() -> dict[tuple[str, Point], int]:
    """(Kind of op, sort of point) -> most of them in one run without a race.

    Each kind runs in both rings, with and without an IDT in memory, and with an interrupt due; then generated programs.
    """
    counter = Counter()
    rng = Random(3)
    actor = Actor(1, 0)
    rings = ("", NO_SYSCALL, NO_SYSCALL + TO_RING_3)
    for before in (*rings, *(TIMER + NO_IDT + ring + "timer(dom1)\n" for ring in rings)):
        setup = parse(SETUP + before, CATALOGUE).ops
        for kind in CATALOGUE.kinds:
            for _ in range(12):
                op = compose(Context(grammar_for(CATALOGUE, None), rng, PAIR, list(setup)), kind, actor)
                counter.run(Program(PAIR, (*setup, op)))
    populated = "memory.populate(dom1, first=0x100, count=64)\nmemory.populate(dom1, first=0x140, count=64)\n"
    counter.run(parse(f"{SETUP}{populated}memory.protect(dom1, first=0x100, count=128, rights=R)\n", CATALOGUE))
    for _ in range(150):
        counter.run(Program(PAIR, generate(rng, CATALOGUE, ops=20, worlds=(PAIR,)).ops))
    return counter.most


def reached(most: dict[tuple[str, Point], int], point: Point) -> set[str]:
    """The kinds of ops some run of which reached such a point."""
    return {name for (name, where), count in most.items() if count and where is point}


def test_a_kind_can_be_raced_at_a_fetch_or_write_if_and_only_if_some_run_of_it_has_one(
    most: dict[tuple[str, Point], int],
) -> None:
    assert reached(most, Point.FETCH) == {kind.name for kind in CATALOGUE.kinds if kind.fetches}
    assert reached(most, Point.WRITE) == {kind.name for kind in CATALOGUE.kinds if kind.writes}


def test_only_calls_that_are_declared_long_have_preemption_points(most: dict[tuple[str, Point], int]) -> None:
    assert {"multicall", "memory.protect"} <= reached(most, Point.STEP) <= {k.name for k in CATALOGUE.kinds if k.long}


def test_generator_and_mutator_race_each_kind_at_each_of_its_points_and_no_other() -> None:
    grammar = grammar_for(CATALOGUE, None)
    rng = Random(5)
    for kind in CATALOGUE.kinds:
        context = Context(grammar, rng, PAIR, [])
        op = compose(context, kind, Actor(1, 0))
        races = [with_race(context, op).race for _ in range(60)]
        assert {race.point for race in races if race is not None} == set(points_of(kind)), kind.name
        mutated = [change_race(grammar, rng, PAIR, [op]) for _ in range(60)]
        found = {each.race.point for ops in mutated for each in ops if each.kind is kind and each.race is not None}
        assert found == set(points_of(kind)), kind.name


def test_a_race_at_a_step_is_put_on_a_call_that_has_one() -> None:
    rng = Random(6)
    context = Context(grammar_for(CATALOGUE, None), rng, PAIR, [])
    protect = Op(CATALOGUE.by_name["memory.protect"], Actor(1, 0), (0x40, 1, 1))
    raced = [with_race(context, protect) for _ in range(300)]
    counts = [op.values[1] for op in raced if op.race is not None and op.race.point is Point.STEP]
    assert sum(count != 1 for count in counts) > len(counts) / 3 > 10


def test_the_race_of_an_instruction_aims_at_its_operand() -> None:
    rng = Random(7)
    context = Context(grammar_for(CATALOGUE, None), rng, PAIR, [])
    outs = Op(CATALOGUE.by_name["outs"], Actor(1, 0), (0x3F8, 1, DIRECT_MAP + 0x50000, 4))
    aimed = 0
    races = [with_race(context, outs).race for _ in range(600)]
    at_fetches = [race for race in races if race is not None and race.point is Point.FETCH]
    assert len(at_fetches) > 300
    for race in at_fetches[:300]:
        address = race.op.values[0] if race.op.kind.name in ("store", "pte") else 0
        aimed += isinstance(address, int) and address >> 12 == DIRECT_MAP + 0x50000 >> 12
    assert aimed > 120
