"""Mutated programs are well-formed, deterministic and restricted by weights; their ops depend on each other."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import crossover, mutate
from hvfuzz.guest.mutate.op_order import arrange, shift_references
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import MAX_OPS, Actor, Op, Point, Program, Race, Ref, defect

SEEDS = st.integers(0, 2**32)
CALLS_OF_A_MUTATION = 250
"""About three times what one takes."""


@given(data=st.data(), seed=SEEDS)
def test_changed_programs_are_well_formed_and_deterministic(
    data: st.DataObject, seed: int, known: Catalogue, programs: st.SearchStrategy[Program]
) -> None:
    program = data.draw(programs)
    changed = mutate(program, Random(seed), known)
    assert defect(changed) is None
    assert mutate(program, Random(seed), known) == changed
    assert decode(encode(changed, known), known) == changed


@given(data=st.data(), seed=SEEDS)
def test_crossed_programs_are_well_formed_and_deterministic(
    data: st.DataObject, seed: int, known: Catalogue, programs: st.SearchStrategy[Program]
) -> None:
    one, other = data.draw(programs), data.draw(programs)
    crossed = crossover(one, other, Random(seed), known)
    assert defect(crossed) is None
    assert crossover(one, other, Random(seed), known) == crossed


def test_many_changes_in_a_row_stay_well_formed(known: Catalogue) -> None:
    rng = Random(5)
    program = generate(rng, known)
    for turn in range(1500):
        if turn % 7 == 0:
            program = crossover(program, generate(rng, known), rng, known)
        else:
            program = mutate(program, rng, known)
        assert defect(program) is None, render(program)
        if turn % 50 == 0:
            assert parse(render(program), known) == program
            assert decode(encode(program, known), known) == program


def test_a_program_at_its_bounds_is_changed_within_them(own: Catalogue) -> None:
    rng = Random(6)
    full = Program(0, generate(rng, own, ops=MAX_OPS).ops)
    assert len(full.ops) == MAX_OPS
    for _ in range(200):
        assert defect(mutate(full, rng, own)) is None
        assert defect(crossover(full, full, rng, own)) is None
        assert defect(mutate(Program(0, ()), rng, own)) is None


@pytest.mark.parametrize(
    "weights", [{"*": 0, "grant": 1}, {"*": 0, "hlt": 3, "event.alloc": 1}, {"grant": 0, "raw": 0}]
)
def test_kinds_of_weight_zero_never_come_in(own: Catalogue, weights: dict[str, int]) -> None:
    allowed = {kind for kind in own.kinds if weights.get(kind.name, weights.get(kind.family, weights.get("*", 1))) > 0}
    rng = Random(7)
    program = Program(0, ())
    for turn in range(600):
        if turn % 40 == 0:
            program = generate(rng, own, weights=weights)
        program = mutate(program, rng, own, weights)
        used = {op.kind for op in program.ops} | {op.race.op.kind for op in program.ops if op.race is not None}
        assert used <= allowed


def test_worlds_are_restricted(own: Catalogue) -> None:
    rng = Random(8)
    program = generate(rng, own, worlds=(1, 3))
    for _ in range(300):
        assert program.world in (1, 3)
        program = mutate(program, rng, own, worlds=(1, 3))
    assert mutate(Program(0, ()), rng, own, worlds=(2,)).world == 2


@pytest.mark.parametrize("weights", [{"grnat": 1}, {"*": 0}])
def test_weights_that_mean_nothing_are_refused(own: Catalogue, weights: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"grnat|every kind of op has weight 0"):
        generate(Random(1), own, weights=weights)


def test_every_change_of_a_small_program_is_reached(own: Catalogue) -> None:
    """Mutations of a plain program lead to each kind of hostile feature."""
    create, plain_map = own.by_name["grant.create"], own.by_name["grant.map"]
    plain = Program(0, (Op(create, Actor(1, 0), (0x40, 2, 3)), Op(plain_map, Actor(2, 0), (1, Ref(0), 0x100, 0, 1))))
    rng = Random(9)
    changed = [mutate(plain, rng, own) for _ in range(3000)]
    ops = [op for program in changed for op in program.ops]
    assert any(op.race is not None for op in ops)
    assert any(op.mangle is not None and op.mangle.pointer is not None for op in ops)
    assert any(op.kind.name == "blob" for op in ops)
    assert any(op.kind.name == "vmcall" for op in ops)
    assert any(op.kind.name == "multicall" for op in ops)
    assert any(program.world != 0 for program in changed)
    assert any(len(program.ops) < 2 for program in changed)
    assert any(op.kind is plain_map and op.actor == Actor(2, 1) for op in ops)
    assert any(len(program.ops) > 16 for program in changed)


def _satisfied(program: Program, consumer: str, fits: Callable[[Op, Op], bool]) -> tuple[int, int]:
    consumers = [op for op in program.ops if op.kind.name == consumer]
    good = 0
    for op in consumers:
        ref = next((value for value in op.values if isinstance(value, Ref)), None)
        good += ref is not None and fits(program.ops[ref.op], op)
    return len(consumers), good


@pytest.mark.parametrize(
    ("consumer", "fits"),
    [
        pytest.param(
            "grant.map",
            lambda producer, op: (
                producer.kind.name == "grant.create"
                and producer.values[1] == op.actor.domain
                and op.values[0] == producer.actor.domain
            ),
            id="map what was granted to me",
        ),
        pytest.param(
            "grant.unmap",
            lambda producer, op: producer.kind.name == "grant.map" and producer.actor.domain == op.actor.domain,
            id="unmap what I mapped",
        ),
        pytest.param(
            "event.bind",
            lambda producer, op: (
                producer.kind.name in ("event.alloc", "event.bind")
                and producer.values[0] == op.actor.domain
                and op.values[0] == producer.actor.domain
            ),
            id="bind what was allocated for me",
        ),
    ],
)
def test_consumers_mostly_fit_their_producers(known: Catalogue, consumer: str, fits: Callable[[Op, Op], bool]) -> None:
    rng = Random(10)
    total = good = 0
    for _ in range(400):
        found = _satisfied(generate(rng, known, ops=8), consumer, fits)
        total += found[0]
        good += found[1]
    assert total > 50
    assert good / total > 0.6


def test_frames_meet(known: Catalogue) -> None:
    """In most programs some frame number is used by more than one op."""
    rng = Random(11)
    meeting = 0
    for _ in range(300):
        used = [
            value
            for op in generate(rng, known, ops=16).ops
            for field, value in zip(op.kind.fields, op.values, strict=True)
            if field.kind.name == "gfn"
        ]
        meeting += len(set(used)) < len(used)
    assert meeting > 150


def test_races_mostly_write_the_arguments_of_the_raced_op(own: Catalogue) -> None:
    rng = Random(12)
    ops = [op for _ in range(3000) for op in generate(rng, own, ops=6).ops if op.kind.number is not None]
    raced = [op for op in ops if op.race is not None and op.race.point is Point.FETCH]
    assert len(raced) > 100
    aimed = 0
    for op in raced:
        assert op.race is not None
        other = op.race.op
        address = other.values[0] if other.kind.name == "store" else None
        page = 0xFFFF_8800_0000_0000 + ((0x10 + op.actor.vcpu) << 12)
        aimed += (
            isinstance(address, int)
            and page <= address < page + 0x1000
            and other.actor.domain == op.actor.domain
            and other.actor != op.actor
        )
    assert aimed / len(raced) > 0.35


def test_leaving_out_a_producer_turns_to_the_next_best(own: Catalogue) -> None:
    create, revoke = own.by_name["grant.create"], own.by_name["grant.revoke"]
    ops = [
        Op(create, Actor(1, 0), (0x40, 2, 3)),
        Op(create, Actor(1, 0), (0x41, 2, 3)),
        Op(revoke, Actor(1, 0), (Ref(1),), None, Race(1, Op(revoke, Actor(1, 1), (Ref(0),)))),
    ]
    without = arrange(ops, (0, 2))
    assert without[1].values == (Ref(0),)
    assert without[1].race is not None
    assert without[1].race.op.values == (Ref(0),)
    assert arrange(ops, (2,))[0].values == (0,)
    assert arrange(ops, (1, 0, 2))[2].values == (Ref(0),)
    assert shift_references(ops, 1, 5)[2].values == (Ref(6),)


def test_every_world_has_programs(known: Catalogue) -> None:
    rng = Random(13)
    assert {generate(rng, known).world for _ in range(200)} == set(range(len(WORLDS)))


def test_changing_is_cheap_enough_for_a_fuzzer(known: Catalogue, calls_of: Callable[..., int]) -> None:
    rng = Random(14)
    programs = [generate(rng, known, ops=15) for _ in range(100)]
    calls = calls_of(lambda: [mutate(program, rng, known) for program in programs for _ in range(10)])
    assert 10 < calls / 1000 < CALLS_OF_A_MUTATION
