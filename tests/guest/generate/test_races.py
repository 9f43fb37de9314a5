"""Races are put on exactly the kinds of ops for which guest memory is fetched in some run: measured, not listed."""

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
from hvfuzz.guest.program.program import Actor, Op, Program
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


class Counter:
    """Runs programs, and notes for each kind of op how many fetches a run of it made at most."""

    def __init__(self) -> None:
        hypervisor = boot(WORLDS[PAIR])
        self.machine = hypervisor.machine
        self.interpreter = Interpreter(self.machine, CATALOGUE, WORLDS[PAIR])
        self.snapshot = Snapshot(self.machine, hypervisor)
        self.most = {kind.name: 0 for kind in CATALOGUE.kinds}

    def run(self, program: Program) -> None:
        def after(index: int, op: Op, outcomes: object) -> None:
            if op.race is None:
                self.most[op.kind.name] = max(self.most[op.kind.name], self.machine.fetches.count)

        self.snapshot.restore()
        self.interpreter.run(program, after=after)


@pytest.fixture(scope="module")
def most() -> dict[str, int]:
    """Kind of op -> most fetches of one run without a race: each kind in both rings, then generated programs."""
    counter = Counter()
    rng = Random(3)
    actor = Actor(1, 0)
    for ring in ("", NO_SYSCALL, NO_SYSCALL + TO_RING_3):
        setup = parse(SETUP + ring, CATALOGUE).ops
        for kind in CATALOGUE.kinds:
            for _ in range(12):
                op = compose(Context(grammar_for(CATALOGUE, None), rng, PAIR, list(setup)), kind, actor)
                counter.run(Program(PAIR, (*setup, op)))
    for _ in range(150):
        counter.run(Program(PAIR, generate(rng, CATALOGUE, ops=20, worlds=(PAIR,)).ops))
    return counter.most


def test_a_kind_can_be_raced_if_and_only_if_some_run_of_it_fetches(most: dict[str, int]) -> None:
    assert {name for name, count in most.items() if count} == {kind.name for kind in CATALOGUE.kinds if kind.fetches}


def test_generator_and_mutator_race_each_of_them_and_no_other() -> None:
    grammar = grammar_for(CATALOGUE, None)
    rng = Random(5)
    for kind in CATALOGUE.kinds:
        context = Context(grammar, rng, PAIR, [])
        op = compose(context, kind, Actor(1, 0))
        assert (with_race(context, op).race is not None) is kind.fetches, kind.name
        mutated = [change_race(grammar, rng, PAIR, [op]) for _ in range(5)]
        assert any(each.kind is kind and each.race is not None for ops in mutated for each in ops) is kind.fetches


def test_the_race_of_an_instruction_aims_at_its_operand() -> None:
    rng = Random(7)
    context = Context(grammar_for(CATALOGUE, None), rng, PAIR, [])
    outs = Op(CATALOGUE.by_name["outs"], Actor(1, 0), (0x3F8, 1, DIRECT_MAP + 0x50000, 4))
    aimed = 0
    for _ in range(300):
        race = with_race(context, outs).race
        assert race is not None
        address = race.op.values[0] if race.op.kind.name in ("store", "pte") else 0
        aimed += isinstance(address, int) and address >> 12 == DIRECT_MAP + 0x50000 >> 12
    assert aimed > 120
